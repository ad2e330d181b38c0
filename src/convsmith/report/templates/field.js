// What a position sees: the rules of the library, turned into pixels. All numbers are integers.

// Far from the borders: the first and last pixel that a position sees along one image axis; null: nothing.
function seenByRule(axis, position) {
  const turns = Math.floor(position / axis.phases.length);
  const seen = axis.phases[position - turns * axis.phases.length];
  return seen && [seen[0] + turns * axis.step, seen[1] + turns * axis.step];
}

// What is really seen of an image of so many pixels: cut off at its edge, or as an exception says.
function seenOf(axis, position, extent) {
  if (!axis.phases) return [0, extent - 1];
  if (axis.except) {
    axis.exceptions ??= new Map(axis.except.map(([at, ...seen]) => [at, seen.length ? seen : null]));
    if (axis.exceptions.has(position)) return axis.exceptions.get(position);
  }
  const seen = seenByRule(axis, position);
  if (!seen) return null;
  const cut = [Math.max(seen[0], 0), Math.min(seen[1], extent - 1)];
  return cut[0] <= cut[1] ? cut : null;
}

// Whether a position sees one pixel between its first and last, where the library knows of holes.
function hasPixel(axis, position, pixel) {
  if (!axis.support) return true;
  const turns = Math.floor(position / axis.support.length);
  const part = axis.support[position - turns * axis.support.length];
  return Boolean(part) && part[1][pixel - part[0] - turns * axis.supportStep] === "1";
}

const viewOf = (layer) => portrait.views[layers.view[layer]];
const indexOn = (axis, position) => axis.axis < 0 ? 0 : position[axis.axis];

// A unit of a layer: per image axis what it sees by the rule, and what it really sees; null: nothing.
function sightOf(layer, position) {
  const view = viewOf(layer);
  const rule = view.axes.map((axis) => axis.phases ? seenByRule(axis, indexOn(axis, position)) : undefined);
  const real = view.axes.map((axis, index) => seenOf(axis, indexOn(axis, position), portrait.image[index]));
  return { rule, real: real.includes(null) ? null : real };
}

// A pixel: per axis of the layer, which positions see it; null where no unit does.
function reachOf(layer, pixel) {
  const view = viewOf(layer);
  const reached = view.size.map((size) => new Array(size).fill(true));
  for (let index = 0; index < view.axes.length; index += 1) {
    const axis = view.axes[index];
    const sees = (position) => {
      const seen = seenOf(axis, position, portrait.image[index]);
      return seen !== null && seen[0] <= pixel[index] && pixel[index] <= seen[1] && hasPixel(axis, position, pixel[index]);
    };
    if (axis.axis < 0) {
      if (!sees(0)) return null;
    } else {
      reached[axis.axis].forEach((still, position) => {
        if (still) reached[axis.axis][position] = sees(position);
      });
    }
  }
  return reached.every((some) => some.includes(true)) ? reached : null;
}

// Runs of true: [first, last] of each.
function runs(flags) {
  const found = [];
  flags.forEach((flag, index) => {
    if (flag && flags[index - 1]) found.at(-1)[1] = index;
    else if (flag) found.push([index, index]);
  });
  return found;
}

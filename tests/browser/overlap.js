// Whether nothing in the drawing of a network lies over anything else, or out of its box.
() => {
  const clash = (box) => {
    const items = box.children;
    for (const one of items) {
      if (one.x < 0 || one.x + one.width > box.width + 0.1 || one.y + one.height > box.height + 0.1) return one;
      for (const other of items) {
        if (one !== other && one.x < other.x + other.width && other.x < one.x + one.width &&
            one.y < other.y + other.height && other.y < one.y + one.height) return [one.name, other.name];
      }
      const inner = one.kind === "box" && clash(one);
      if (inner) return inner;
    }
    return null;
  };
  return clash(network.root) === null;
}

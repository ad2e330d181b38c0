// What can be reached with keys and has no name.
() => [...document.querySelectorAll("button, a[href], input, [tabindex='0']")].filter((element) =>
  !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") || element.labels?.length ||
  element.textContent.trim())).map((element) => element.outerHTML)

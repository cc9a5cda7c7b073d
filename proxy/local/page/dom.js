// How is the document touched? Text is always text here: nothing that came from elsewhere is read as HTML.

/** The element of index.html with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element; children are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Say something to screen readers; the same sentence twice is said twice. */
export function announce(text) {
  byId("announcer").replaceChildren(element("span", {}, text));
}

/** Show `text` in an element, which is hidden where there is none. */
export function show(id, text) {
  byId(id).textContent = text ?? "";
  byId(id).hidden = !text;
}

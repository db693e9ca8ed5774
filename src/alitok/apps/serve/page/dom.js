// Helpers to create elements, announce to screen readers, and decode base64 images.

const SVG = "http://www.w3.org/2000/svg";

// `on` holds listeners; properties of the element are set as such, everything else as attributes.
export function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "class") node.className = value;
    else if (name in node) node[name] = value;
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export const byId = (id) => document.getElementById(id);

// Read out once by a screen reader when it is idle.
export function announce(words) {
  byId("announcer").textContent = words;
}

// Whether the focus is inside, and would be lost if the content were replaced.
export const holdsFocus = (place) => place.contains(document.activeElement);

// Shows a message with an optional action; returns its button.
export function notice(place, words, action = null) {
  place.replaceChildren();
  if (!words) return null;
  const button = action && make("button", { type: "button", on: { click: action.run } }, action.label);
  place.append(make("div", { class: "notice error", role: "alert" }, make("p", {}, words), button));
  return button;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export function blobOf(base64, format = "png") {
  return new Blob([bytesOf(base64)], { type: `image/${format}` });
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// On a narrow screen results appear below the form; scroll to them.
export function reveal(node) {
  const { top } = node.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.75) node.scrollIntoView({ behavior: reducedMotion() ? "auto" : "smooth", block: "start" });
}

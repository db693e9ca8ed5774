// An image input: choose, drop or paste.

import { make } from "./dom.js";

export class ImageError extends Error {}

// `whenPicked` receives the file, `whenRejected` a message.
export function createPick({ maxBytes, whenPicked, whenRejected }) {
  const input = make("input", { type: "file", accept: "image/*", hidden: true });
  const button = make("button", { type: "button", on: { click: () => input.click() } }, "Choose an image");
  const node = make("div", { class: "pick" }, button, make("span", { class: "faint" }, "or drop or paste one here"), input);

  function take(file) {
    if (!file) return whenRejected("No image was dropped.");
    if (file.type && !file.type.startsWith("image/")) return whenRejected(`${file.name} is not an image.`);
    if (maxBytes && file.size > maxBytes) {
      return whenRejected(`${file.name} has ${megabytes(file.size)}; this service accepts images up to ${megabytes(maxBytes)}.`);
    }
    whenPicked(file);
  }

  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // allows the same file to be chosen again
  });
  for (const name of ["dragenter", "dragover"]) {
    node.addEventListener(name, (event) => {
      event.preventDefault();
      node.classList.add("over");
    });
  }
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    node.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file || !node.checkVisibility()) return; // another tab is open, or text was pasted into a field
    event.preventDefault();
    take(file);
  });
  return { node, button };
}

const megabytes = (bytes) => (bytes < 1e5 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// The center crop of an image at the model's size, on white where it is transparent: what the model will see.
export async function squareOf(blob, size) {
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    throw new ImageError("This browser cannot read this file as an image.");
  }
  const side = Math.min(image.width, image.height);
  const canvas = make("canvas", { width: size, height: size });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (image.width - side) >> 1, (image.height - side) >> 1, side, side, 0, 0, size, size);
  image.close();
  return canvas;
}

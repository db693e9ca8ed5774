// A place for one image: chosen, dropped or pasted.

import { make } from "./dom.js";

export class ImageError extends Error {}

// `whenPicked` gets the file, `whenRefused` a sentence.
export function createPick({ mostBytes, whenPicked, whenRefused }) {
  const input = make("input", { type: "file", accept: "image/*", hidden: true });
  const button = make("button", { type: "button", on: { click: () => input.click() } }, "Choose an image");
  const node = make("div", { class: "pick" }, button, make("span", { class: "faint" }, "or drop or paste one here"), input);

  function take(file) {
    if (!file) return whenRefused("There was no image in what was dropped.");
    if (file.type && !file.type.startsWith("image/")) return whenRefused(`${file.name} is no image.`);
    if (mostBytes && file.size > mostBytes) {
      return whenRefused(`${file.name} has ${megabytes(file.size)}; this service takes images up to ${megabytes(mostBytes)}.`);
    }
    whenPicked(file);
  }

  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
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
    if (!file || !node.checkVisibility()) return; // another tab is open, or words were pasted into a field
    event.preventDefault();
    take(file);
  });
  return { node, button };
}

const megabytes = (bytes) => (bytes < 1e5 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// The middle square of an image at the model's size, on white where it is transparent: what the model will see.
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

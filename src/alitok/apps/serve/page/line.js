// An image with a line that snaps to rows of patches: kept above it, generated below. The line is a slider whose value
// is the number of generated rows, so that up is more both on the screen and by keys.

import { make, plural } from "./dom.js";

export function createLine({ canvas, grid, rows }) {
  let generated = grid - rows;
  const most = grid - 1; // at least one row is kept

  const shade = make("div", { class: "shade" });
  const handle = make("div", {
    role: "slider",
    tabIndex: 0,
    class: "cut",
    "aria-label": "Line below which the model generates",
    "aria-orientation": "vertical",
    "aria-valuemin": "1",
    "aria-valuemax": String(most),
  });
  const summary = make("p", { class: "small faint" });
  canvas.classList.add("image");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The image to complete");
  const board = make("div", { class: "board" }, canvas, shade, handle);

  function put(count) {
    generated = Math.min(Math.max(count, 1), most);
    const kept = grid - generated;
    shade.style.top = handle.style.top = `${(kept / grid) * 100}%`;
    summary.textContent = `Keeps the first ${kept === 1 ? "row" : `${kept} rows`} of ${grid}, generates the last ${generated === 1 ? "row" : `${generated} rows`}.`;
    handle.setAttribute("aria-valuenow", String(generated));
    handle.setAttribute("aria-valuetext", `keeps ${plural(kept, "row")}, generates ${plural(generated, "row")}`);
  }

  handle.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.round(grid / 4));
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: page, PageDown: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    put(generated + step);
  });

  function follow(event) {
    const { top, height } = board.getBoundingClientRect();
    put(grid - Math.round(((event.clientY - top) / height) * grid));
  }

  // A press anywhere moves the line there; only the handle stops a finger from scrolling the page.
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    follow(event);
  });
  handle.addEventListener("pointermove", (event) => handle.hasPointerCapture(event.pointerId) && follow(event));

  put(generated);
  return { node: make("div", { class: "line" }, board, summary), handle, rows: () => grid - generated };
}

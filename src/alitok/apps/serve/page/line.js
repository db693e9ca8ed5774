// An image with a line across it that snaps to rows of patches: kept above, drawn by the model below. The line is a
// slider whose value is the number of rows that the model draws, so that up is more on the screen and by the keys.

import { make, plural } from "./dom.js";

export function createLine({ canvas, grid, kept: keptAtFirst }) {
  let drawn = grid - keptAtFirst;
  const most = grid - 1; // one row at least is kept

  const shade = make("div", { class: "shade" });
  const handle = make("div", {
    role: "slider",
    tabIndex: 0,
    class: "cut",
    "aria-label": "Line below which the model draws",
    "aria-orientation": "vertical",
    "aria-valuemin": "1",
    "aria-valuemax": String(most),
  });
  const words = make("p", { class: "small faint" });
  canvas.classList.add("image");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The image that is completed");
  const board = make("div", { class: "board" }, canvas, shade, handle);

  function put(rows) {
    drawn = Math.min(Math.max(rows, 1), most);
    const kept = grid - drawn;
    shade.style.top = handle.style.top = `${(kept / grid) * 100}%`;
    words.textContent = `Keeps the first ${kept === 1 ? "row" : `${kept} rows`} of ${grid}, draws the last ${drawn === 1 ? "row" : `${drawn} rows`}.`;
    handle.setAttribute("aria-valuenow", String(drawn));
    handle.setAttribute("aria-valuetext", `keeps ${plural(kept, "row")}, draws ${plural(drawn, "row")}`);
  }

  handle.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.round(grid / 4));
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: page, PageDown: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    put(drawn + step);
  });

  function follow(event) {
    const { top, height } = board.getBoundingClientRect();
    put(grid - Math.round(((event.clientY - top) / height) * grid));
  }

  // A press anywhere moves the line there; only the handle keeps a finger from scrolling the page.
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    follow(event);
  });
  handle.addEventListener("pointermove", (event) => handle.hasPointerCapture(event.pointerId) && follow(event));

  put(drawn);
  return { node: make("div", { class: "line" }, board, words), handle, kept: () => grid - drawn };
}

// The codes of an image as colored cells: the prefix in its own row, then the grid. One cell is in the tab order; the
// arrow keys move between cells.

import { make, plural } from "./dom.js";

const GOLDEN_ANGLE = 137.50776;

// Neighbouring numbers get distant hues; the lightness has another period, so few codes look alike.
function colorOf(code) {
  const lightness = 0.5 + 0.35 * ((code * 0.7548776662) % 1);
  return `oklch(${lightness.toFixed(3)} 0.14 ${((code * GOLDEN_ANGLE) % 360).toFixed(1)})`;
}

export function createCodes({ codes, prefix, grid, codebook_size: size }) {
  const rows = [codes.slice(0, prefix)];
  for (let at = prefix; at < codes.length; at += grid) rows.push(codes.slice(at, at + grid));

  const readout = make("p", { class: "readout", "aria-hidden": "true" }, "Hover over a cell, or use the arrow keys, to read its code.");
  const table = make("div", { role: "grid", class: "codes", "aria-label": "Codes of the image" });
  table.style.setProperty("--columns", Math.max(prefix, grid));

  const cells = rows.map((row, r) =>
    row.map((code, c) => {
      const where = r === 0 ? `prefix ${c + 1}` : `row ${r}, column ${c + 1}`;
      const cell = make("div", { role: "gridcell", tabIndex: -1, class: "code", "aria-label": `code ${code}, ${where}`, title: String(code) });
      cell.style.backgroundColor = colorOf(code);
      cell.dataset.code = code;
      cell.dataset.where = where;
      return cell;
    }),
  );
  cells.forEach((row, r) => {
    const line = make("div", { role: "row", class: r === 0 ? "code-row prefix" : "code-row" }, ...row);
    if (row.length) table.append(line);
  });
  const flat = cells.flat();
  flat[0].tabIndex = 0;

  function point(cell) {
    const { code, where } = cell.dataset;
    const alike = flat.filter((other) => other.dataset.code === code);
    for (const other of flat) other.classList.toggle("alike", other.dataset.code === code);
    readout.textContent = `Code ${code} of ${size} at ${where}; ${alike.length === 1 ? "once" : `${alike.length} times`} in this image.`;
  }

  table.addEventListener("pointerover", (event) => event.target.dataset.code && point(event.target));
  table.addEventListener("focusin", (event) => {
    for (const cell of flat) cell.tabIndex = cell === event.target ? 0 : -1;
    point(event.target);
  });
  table.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    if (!step) return;
    event.preventDefault();
    const r = cells.findIndex((row) => row.includes(event.target));
    const next = cells[r + step[0]];
    if (!next?.length) return;
    const c = Math.min(Math.max(cells[r].indexOf(event.target) + step[1], 0), next.length - 1);
    next[c].focus();
  });

  const distinct = new Set(codes).size;
  return make(
    "section",
    { class: "code-part" },
    make("h2", {}, "Codes"),
    make("p", { class: "faint" }, `${plural(codes.length, "code")} represent the image: ${prefix} prefix codes for the first row, then ${grid} × ${grid}, one per patch. ${distinct} are distinct, from a codebook of ${size.toLocaleString("en")}.`),
    table,
    readout,
  );
}

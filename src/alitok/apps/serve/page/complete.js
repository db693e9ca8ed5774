// The Complete tab: an image, the line below which the model generates, and the settings of the Generate tab.

import { announce, byId, make, notice } from "./dom.js";
import { createForm } from "./form.js";
import { createLine } from "./line.js";
import { createPick, ImageError, squareOf } from "./pick.js";
import { SettingsError } from "./settings.js";

export function createCompleteTab(model, { open }) {
  const settings = createForm(model, { name: "complete", verb: "Complete", complete: takeGenerated, readFrom, putFrom: show });
  const problem = make("div");
  const pick = createPick({
    maxBytes: model.limits.max_upload_bytes,
    whenPicked: take,
    whenRejected: (message) => notice(problem, message),
  });
  byId("complete-pick").append(pick.node, problem);
  let canvas = null;
  let line = null;

  function show(from) {
    canvas = from.canvas;
    line = createLine({ canvas, grid: model.grid, rows: from.rows });
    byId("complete-line").replaceChildren(line.node);
  }

  async function take(blob) {
    notice(problem, "");
    try {
      show({ canvas: await squareOf(blob, model.image_size), rows: model.grid >> 1 });
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      return notice(problem, error.message);
    }
    announce("Image loaded. Move the line, then press Complete.");
  }

  // Only the crop on the screen is sent: a few kilobytes of a large photograph.
  function readFrom() {
    if (!line) throw new SettingsError("Choose an image first.", pick.button);
    const rows = line.rows();
    return {
      request: { image: canvas.toDataURL("image/png").split(",")[1], rows },
      canvas,
      rows,
      height: (rows * model.image_size) / model.grid,
    };
  }

  async function takeGenerated({ blob, label, settings: used }) {
    settings.put({ ...used, classes: [label], count: 1, seed: null });
    open();
    await take(blob);
    line?.handle.focus();
  }

  return { takeGenerated };
}

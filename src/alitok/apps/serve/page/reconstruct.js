// The Reconstruct tab: an image, its reconstruction by each decoder, their difference, and the codes.

import { postImage, ServiceError } from "./api.js";
import { createCodes } from "./codes.js";
import { announce, blobOf, byId, holdsFocus, make, notice, reveal } from "./dom.js";
import { createPick } from "./pick.js";

const STAGES = [
  ["original", "Original", () => "center crop"],
  ["stage1", "Stage 1", ({ psnr }) => decibels(psnr.stage1)],
  ["stage2", "Stage 2", ({ psnr }) => decibels(psnr.stage2)],
  ["difference", "Difference", ({ difference_scale: scale }) => (scale ? `of the last stage, × ${scale}` : "of the last stage")],
];

// null: an exact reconstruction has no finite PSNR.
const decibels = (value) => (Number.isFinite(value) ? `${value.toFixed(2)} dB` : "exact");

export function createReconstructTab(model) {
  const problem = byId("reconstruct-notice");
  const result = byId("reconstruct-result");
  let running = null;

  async function reconstruct(file) {
    running?.abort();
    const mine = (running = new AbortController());
    if (holdsFocus(problem)) pick.button.focus();
    notice(problem, "");
    result.setAttribute("aria-busy", "true");
    if (!result.children.length) result.replaceChildren(make("p", { class: "faint" }, "Reconstructing …"));
    announce("Reconstructing.");
    try {
      const answer = await postImage("/v1/reconstruct", file, mine.signal);
      show(answer);
      reveal(result);
      const best = answer.psnr.stage2 ?? answer.psnr.stage1;
      announce(`Reconstructed: ${decibels(best)}.`);
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (!(failure instanceof ServiceError)) throw failure;
      result.replaceChildren();
      notice(problem, failure.message, { label: "Try again", run: () => reconstruct(file) });
    } finally {
      if (running === mine) result.removeAttribute("aria-busy");
    }
  }

  function show(answer) {
    for (const image of result.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    const figures = STAGES.filter(([name]) => answer[name]).map(([name, title, note]) => {
      const src = URL.createObjectURL(blobOf(answer[name]));
      const image = make("img", { src, class: "image", width: model.image_size, height: model.image_size, alt: `${title} of the image` });
      return make("figure", { class: "version" }, make("figcaption", {}, title, make("span", { class: "faint small" }, note(answer))), image);
    });
    result.replaceChildren(make("div", { class: "versions" }, ...figures), createCodes(answer));
  }

  const pick = createPick({
    maxBytes: model.limits.max_upload_bytes,
    whenPicked: reconstruct,
    whenRejected: (message) => notice(problem, message),
  });
  byId("reconstruct-pick").append(pick.node);
}

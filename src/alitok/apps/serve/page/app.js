// Entry point: loads the model's metadata and creates the tabs.

import { getJson, ServiceError } from "./api.js";
import { createCompleteTab } from "./complete.js";
import { byId, holdsFocus, notice, plural } from "./dom.js";
import { createGenerateTab } from "./generate.js";
import { createReconstructTab } from "./reconstruct.js";
import { createRunTab } from "./run.js";
import { createTabs } from "./tabs.js";

const SMALL = 64; // images up to this size are shown enlarged, pixel by pixel
const SHOWN = 160; // size of a small image on the screen

async function start() {
  const held = holdsFocus(byId("start-notice"));
  notice(byId("start-notice"), "");
  let model;
  try {
    model = (await getJson("/v1/models")).models[0];
  } catch (failure) {
    if (!(failure instanceof ServiceError)) throw failure;
    byId("model-facts").textContent = "";
    const again = notice(byId("start-notice"), failure.message, { label: "Try again", run: start });
    return held && again.focus();
  }

  const size = model.image_size;
  document.title = `${model.name} · alitok`;
  byId("model-facts").textContent = [
    model.name,
    `${size} × ${size} px`,
    plural(model.classes.length, "class", "classes"),
    `${model.codes} codes, codebook ${model.codebook_size.toLocaleString("en")}`,
  ].join(" · ");
  document.documentElement.classList.toggle("small-images", size <= SMALL);
  document.documentElement.style.setProperty("--shown", `${size <= SMALL ? Math.max(1, Math.floor(SHOWN / size)) * size : size}px`);

  byId("tasks").hidden = false;
  byId("tab-run").hidden = !model.run;
  const run = createRunTab();
  let tabs = null;
  const complete = createCompleteTab(model, { open: () => tabs.open("complete") });
  createGenerateTab(model, { complete: complete.takeGenerated });
  createReconstructTab(model);
  tabs = createTabs(byId("tabs"), (name) => name === "run" && run.opened());
  if (held) byId("tabs").querySelector('[aria-selected="true"]').focus();
}

start();

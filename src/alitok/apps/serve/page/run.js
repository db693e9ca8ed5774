// The Run tab: a training run's curves by stage and metric, and its images by step.

import { getBlob, getJson, ServiceError } from "./api.js";
import { createCurve } from "./curves.js";
import { announce, byId, holdsFocus, make, notice, plural } from "./dom.js";

const NAMES = { stage1: "Stage 1", stage2: "Stage 2", generator: "Generator" };

export function createRunTab() {
  const problem = byId("run-notice");
  const result = byId("run-result");
  const addresses = new Map(); // of fetched images, by url
  let stages = null;
  let chosen = null;

  async function load() {
    const held = holdsFocus(problem) || holdsFocus(result);
    notice(problem, "");
    result.setAttribute("aria-busy", "true");
    try {
      ({ stages } = await getJson("/v1/run"));
      show();
      if (held) result.querySelector("button").focus();
      announce(`The run has ${plural(Object.keys(stages).length, "stage")}.`);
    } catch (failure) {
      if (!(failure instanceof ServiceError)) throw failure;
      const again = notice(problem, failure.message, { label: "Try again", run: load });
      if (held) again.focus();
    } finally {
      result.removeAttribute("aria-busy");
    }
  }

  function show() {
    const names = Object.keys(stages);
    const again = make("button", { type: "button", on: { click: load } }, "Reload");
    if (!names.length) return result.replaceChildren(make("p", { class: "empty" }, "This run has no logs yet."), again);
    if (!names.includes(chosen)) chosen = names[0];
    const body = make("div");
    const choice = make(
      "fieldset",
      { class: "segments" },
      make("legend", { class: "unseen" }, "Stage"),
      ...names.map((name) => {
        const input = make("input", { type: "radio", name: "run-stage", value: name, checked: name === chosen, on: { change: () => showStage((chosen = name), body) } });
        return make("label", {}, input, make("span", {}, NAMES[name] ?? name));
      }),
    );
    result.replaceChildren(
      make("div", { class: "batch-head" }, choice, again),
      body,
    );
    showStage(chosen, body);
  }

  function showStage(name, body) {
    const { curves = {}, images = [] } = stages[name];
    body.replaceChildren(
      ...(images.length ? [make("h2", {}, "Images"), createImages(images)] : []),
      make("h2", {}, "Curves"),
      make("div", { class: "curves" }, ...Object.entries(curves).map(([metric, points]) => createCurve(metric, points))),
    );
  }

  function createImages(images) {
    const steps = [...new Set(images.map((image) => image.step))].sort((a, b) => a - b);
    const output = make("output", { htmlFor: "run-step", "aria-live": "off" });
    const place = make("div", { class: "sheets" });
    const input = make("input", { id: "run-step", type: "range", min: 0, max: steps.length - 1, step: 1, value: steps.length - 1, on: { input: choose } });
    let latest = 0;

    async function choose() {
      const mine = ++latest;
      const step = steps[Number(input.value)];
      output.value = step;
      input.setAttribute("aria-valuetext", `step ${step}`);
      const figures = await Promise.all(
        images
          .filter((image) => image.step === step)
          .map(async ({ name, url }) => {
            const image = make("img", { src: await addressOf(url), alt: `${name} at step ${step}`, class: "sheet" });
            return make("figure", {}, make("figcaption", {}, name), image);
          }),
      ).catch((failure) => [make("p", { class: "notice error" }, failure.message)]);
      if (mine === latest) place.replaceChildren(...figures); // the slider may have moved meanwhile
    }

    choose();
    return make("div", {}, make("div", { class: "field slider wide" }, make("label", { htmlFor: input.id }, "Step"), output, input), place);
  }

  // Fetched rather than linked, because an <img> cannot send the key.
  async function addressOf(url) {
    if (!addresses.has(url)) addresses.set(url, URL.createObjectURL(await getBlob(url)));
    return addresses.get(url);
  }

  return {
    opened() {
      if (!stages) load();
    },
  };
}

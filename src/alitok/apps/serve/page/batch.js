// The images of one request: rows as they arrive, then the finished image and its actions.

import { blobOf, make, plural } from "./dom.js";
import { short } from "./scale.js";

// `actions`: sameAgain(settings, from), vary(settings, from), complete(image). `from`: the image that was completed, if
// any; it belongs to the batch, as the form may show another one by now.
export function createBatch({ model, settings, from, actions }) {
  const cards = [];
  const grid = make("div", { class: "cards" });
  const summary = make("p", { class: "faint small" }, describe(model, settings));
  const again = make("button", { type: "button", hidden: true, title: "Restore these settings and this seed" }, "Same again");
  const vary = make("button", { type: "button", hidden: true, title: "The same settings with a new seed" }, "Vary");
  const node = make("article", { class: "batch", "aria-label": "Generated images" }, make("div", { class: "batch-head" }, summary, make("div", { class: "actions" }, again, vary)), grid);

  return {
    node,
    get total() {
      return cards.length;
    },
    start({ images }) {
      const known = { ...settings, seed: images[0]?.seed ?? settings.seed };
      summary.textContent = describe(model, known);
      node.setAttribute("aria-label", summary.textContent);
      again.onclick = () => actions.sameAgain(known, from);
      vary.onclick = () => actions.vary(known, from);
      again.hidden = vary.hidden = false;
      for (const image of images) {
        const card = createCard({ model, image, settings: known, from, actions });
        cards.push(card);
        grid.append(card.node);
      }
    },
    row: ({ index, row, data }) => cards[index].row(row, data),
    image: ({ index, data, format }) => cards[index].finish(data, format),
    end: () => cards.forEach((card) => card.end()),
  };
}

function describe(model, settings) {
  const names = settings.classes.slice(0, 3).map((label) => model.classes[label]);
  const rest = settings.classes.length - names.length;
  const guidance = [0, 1].includes(settings.guidance_scale)
    ? "no guidance"
    : `guidance ${short(settings.guidance_scale)}, ${settings.guidance_schedule}${settings.guidance_schedule === "cosine" ? `, power ${short(settings.guidance_power)}` : ""}`;
  const seed = settings.seed === null ? null : `seed ${settings.seed}`;
  const filters = [
    settings.temperature !== 1 && `temperature ${short(settings.temperature)}`,
    settings.top_k > 0 && `top-k ${settings.top_k}`,
    settings.top_p < 1 && `top-p ${short(settings.top_p)}`,
  ];
  const classes = names.join(", ") + (rest > 0 ? ` and ${rest} more` : "");
  return [classes, seed, guidance, ...filters].filter(Boolean).join(" · ");
}

function createCard({ model, image, settings, from, actions }) {
  const size = model.image_size;
  const { class: name, label } = image;
  const canvas = make("canvas", { width: size, height: size, class: "image", role: "img", "aria-label": `${name}, generating` });
  const context = canvas.getContext("2d");
  if (from) context.drawImage(from.canvas, 0, 0, size, from.height, 0, 0, size, from.height);
  const frame = make("div", { class: "frame generating" }, canvas);
  const line = make("div", { class: "card-actions" });
  const node = make("figure", { class: "result" }, frame, make("figcaption", {}, name), line);
  let finished = false;

  return {
    node,
    // Decoding a strip is asynchronous: a late row must not cover the finished image.
    async row(row, data) {
      const strip = await createImageBitmap(blobOf(data));
      if (!finished) context.drawImage(strip, 0, row * (size / model.grid));
      strip.close();
    },
    finish(data, format) {
      finished = true;
      const blob = blobOf(data, format);
      const address = URL.createObjectURL(blob);
      const file = `${name.replace(/[^\p{L}\p{N}]+/gu, "-")}-${image.seed}-${image.index}.${format === "jpeg" ? "jpg" : format}`;
      frame.replaceChildren(make("img", { src: address, width: size, height: size, class: "image", alt: `${name}, seed ${image.seed}, image ${image.index}` }));
      frame.classList.remove("generating");
      line.append(
        make("a", { href: address, download: file, title: "Download this image", "aria-label": `Save ${name}` }, "Save"),
        make("button", { type: "button", class: "link", "aria-label": `Vary ${name}`, on: { click: () => actions.vary({ ...settings, classes: [label] }, from) } }, "Vary"),
        make("button", { type: "button", class: "link", "aria-label": `Complete ${name}`, on: { click: () => actions.complete({ blob, label, settings }) } }, "Complete"),
      );
    },
    end() {
      frame.classList.remove("generating");
      if (finished) return;
      canvas.setAttribute("aria-label", `${name}, not finished`);
      line.append(make("span", { class: "faint" }, "not finished"));
    },
  };
}

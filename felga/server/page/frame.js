// An image with boxes on it, which can be clicked and dragged.

import { load } from "./server.js";

const DRAG = 6; // pixels that the pointer moves before a click is a box

export function make(name, { dataset, style, on, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  Object.assign(element.dataset, dataset);
  for (const [key, value] of Object.entries(style ?? {})) element.style.setProperty(key, value);
  for (const [key, value] of Object.entries(on ?? {})) element.addEventListener(key, value);
  element.append(...children);
  return element;
}

export function frame({ src, width, height, alt, boxes = [], pick, lazy = true }) {
  const img = make("img", { alt, draggable: false, loading: lazy ? "lazy" : "eager", decoding: "async" });
  const area = make("div", { className: "frame", style: { "--a": width / height } }, img);
  load(img, src);
  boxes.forEach((region, at) => {
    const [x1, y1, x2, y2] = region.box;
    const button = make("button", {
      type: "button",
      className: `region${at && !region.term ? " next" : ""}${y1 < height / 12 ? " top" : ""}${region.whole ? " entire" : ""}`,
      title: region.term ?? region.label ?? "",
      dataset: region.term ? { term: region.term } : {},
      ariaLabel: `${region.says}. Show its sentences and images like it`,
      on: { click: () => pick(region.whole ? null : region.box) },
      style: {
        left: `${(100 * x1) / width}%`, top: `${(100 * y1) / height}%`,
        width: `${(100 * (x2 - x1)) / width}%`, height: `${(100 * (y2 - y1)) / height}%`,
      },
    });
    area.append(button);
  });
  if (pick) draggable(area, width, height, pick);
  return area;
}

function draggable(area, width, height, pick) {
  let from = null;
  let rubber = null;
  const place = (event) => {
    const seen = area.getBoundingClientRect();
    const inside = (value) => Math.min(Math.max(value, 0), 1);
    return [inside((event.clientX - seen.left) / seen.width), inside((event.clientY - seen.top) / seen.height)];
  };
  const corners = (to) => [0, 1].flatMap((side) => [0, 1].map((axis) => Math[side ? "max" : "min"](from.at[axis], to[axis])));
  const end = () => {
    rubber?.remove();
    from = rubber = null;
  };
  area.addEventListener("pointerdown", (event) => {
    if (event.button === 0) from = { at: place(event), x: event.clientX, y: event.clientY };
  });
  area.addEventListener("pointermove", (event) => {
    if (!from) return;
    if (!rubber && Math.hypot(event.clientX - from.x, event.clientY - from.y) < DRAG) return;
    if (!rubber) {
      area.setPointerCapture(event.pointerId);
      area.append((rubber = make("div", { className: "rubber" })));
    }
    const [x1, y1, x2, y2] = corners(place(event));
    Object.assign(rubber.style, { left: `${x1 * 100}%`, top: `${y1 * 100}%`, width: `${(x2 - x1) * 100}%`, height: `${(y2 - y1) * 100}%` });
  });
  area.addEventListener("pointerup", (event) => {
    const drawn = rubber && corners(place(event));
    end();
    if (!drawn) return;
    area.addEventListener("click", (click) => click.stopPropagation(), { capture: true, once: true });
    setTimeout(() => area.dispatchEvent(new Event("click")), 0); // or the next real click would be swallowed
    const box = [drawn[0] * width, drawn[1] * height, drawn[2] * width, drawn[3] * height].map(Math.round);
    if (box[2] > box[0] && box[3] > box[1]) pick(box);
  });
  area.addEventListener("pointercancel", end);
}

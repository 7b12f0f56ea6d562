// The page of `felga serve`: plain modules, no dependencies. Everything that is shown is in the URL.

import { frame, make } from "./frame.js";
import { ask, enter, imageUrl, remember } from "./server.js";

const $ = (id) => document.getElementById(id);
let info = { sure: 0.95, limits: { queries: 64 } };
const switches = document.querySelectorAll(".switch input"); // one in the head, one in the panel
let upload = null; // the file that is searched by, which no URL can name

// --- small parts

const percent = (share) => {
  const value = Math.floor(share * 1000) / 10;
  return `${value >= 99 ? value : Math.floor(value)} %`;
};

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function waiting(place, count, kind = "") {
  place.replaceChildren(...Array.from({ length: count }, () => make("div", { className: `skeleton ${kind}` })));
}

function failed(place, error) {
  if (error.name === "AbortError") return;
  place.replaceChildren(make("p", { className: "status bad", textContent: capital(error.message) + "." }));
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// --- hits

function card(hit, side) {
  const boxes = hit.regions.map((region, at) => ({
    ...region,
    says: `${region.term ? `${region.term}: ` : ""}${region.whole ? "The whole of" : `Box ${at + 1} on`} ${hit.image_id}, score ${region.score.toFixed(3)}`,
  }));
  const open = (box) => show({ image: hit.image_id, box, width: hit.width, height: hit.height });
  const label = hit.regions[0]?.label;
  const alt = `${hit.image_id}, hit ${hit.rank}${label ? `, ${label}` : ""}`;
  const caption = make("figcaption", {},
    make("span", { className: "rank", textContent: hit.rank }),
    make("button", { className: "name", type: "button", title: hit.path, on: { click: () => open(null) } },
      make("span", { textContent: hit.image_id })),
    make("span", { className: "score", textContent: hit.score.toFixed(3), title: "Score: ranks the images of one query, and means nothing beyond" }));
  if (hit.explanation) caption.append(about(hit));
  const shown = frame({ src: imageUrl(hit.image_id, side), width: hit.width || 4, height: hit.height || 3, alt, boxes, pick: open });
  return make("figure", { className: "hit", style: { "--a": (hit.width || 4) / (hit.height || 3) } }, shown, caption);
}

function about(hit) {
  const sure = hit.confidence >= info.sure;
  const words = hit.explanation.keywords;
  const pill = make("span", {
    className: `pill${sure ? " sure" : ""}`, textContent: `${percent(hit.confidence)} sure`,
    title: "Confidence: one less the share of searches for absent things that do as well",
  });
  return make("div", { className: "more" }, ...(info.measured ? [pill] : []),
    ...(words.length ? [make("span", { textContent: `near: ${words.join(", ")}` })] : []));
}

// --- answers to words

function answer(found, all) {
  const head = make("h2", {}, `“${found.query}”`);
  const section = make("section", { className: "answer" }, head);
  for (const [word, near] of Object.entries(found.unknown)) {
    const hint = make("small", {}, `“${word}” is a word that nothing here knows`);
    near.forEach((other, at) => hint.append(at ? ", " : "; nearest: ", make("button", {
      type: "button", className: "link", textContent: other,
      on: { click: () => go({ ...state(), q: state().q.map((q) => q.replace(word, other)) }) },
    })));
    head.append(hint);
  }
  if (!found.hits.length || (found.doubt && !all)) section.append(noMatch(found));
  else section.append(make("div", { className: "wall" }, ...found.hits.map((hit) => card(hit, 640))));
  return section;
}

function noMatch({ query, doubt }) {
  const note = make("div", { className: "notice" }, make("b", { textContent: `No match for “${query}”` }));
  if (!doubt) {
    note.append(make("p", { textContent: "There is nothing to rank." }));
    return note;
  }
  note.append(
    make("p", { textContent: `The best image${doubt.term === query ? "" : ` for “${doubt.term}”`} has a confidence of ${percent(doubt.confidence)}; an answer needs ${percent(info.sure)}.` }),
    make("button", { type: "button", textContent: "Show the nearest images all the same", on: { click: () => go({ ...state(), all: true }) } }));
  return note;
}

async function search({ q, k, regions, all, fenet }) {
  const main = $("results");
  if (!q.length) {
    main.replaceChildren($("welcome").content.cloneNode(true));
    say("");
    return;
  }
  main.replaceChildren(make("div", { className: "wall" }));
  waiting(main.firstChild, 6);
  say("Searching …");
  const asked = new URLSearchParams([...q.map((one) => ["q", one]), ["k", k], ["regions", regions], ["explain", fenet], ...before(fenet)]);
  const started = performance.now();
  try {
    const found = await ask("words", `api/search?${asked}`);
    main.replaceChildren(...found.answers.map((one) => answer(one, all)));
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    say(`${q.length === 1 ? "One search" : `${q.length} searches`} in ${info.images ?? "all"} images, ${seconds} s${fenet ? "" : " · without the FENet, nothing says how sure a hit is"}`);
  } catch (error) {
    if (error.name === "AbortError") return;
    main.replaceChildren();
    say(capital(error.message) + ".", true);
  }
}

// --- the panel: one image or a part of it, its sentences, and what looks like it

async function panel({ image, box, fenet, width, height }) {
  const own = image === null;
  if (own && !upload) return shut();
  const title = own ? upload.name : image;
  $("panel-title").textContent = title;
  $("box").value = box ? box.map((value) => Math.round(value)).join(", ") : "";
  $("entire").disabled = !box;
  if (!$("panel").open) $("panel").showModal();
  $("panel").scrollTop = 0;
  waiting($("sentences"), 3, "line");
  waiting($("similar"), 6);
  const asked = new URLSearchParams([...(own ? [] : [["id", image]]), ...(box ? [["box", box.join(",")]] : []), ...before(fenet)]);
  const post = own ? { method: "POST", body: upload.file, headers: { "Content-Type": upload.file.type } } : {};
  subject({ image, box, title, width: own ? upload.width : width, height: own ? upload.height : height });
  await Promise.all([
    ask("sentences", `api/assign?${asked}&k=6`, post).then(sentences).catch((error) => failed($("sentences"), error)),
    ask("similar", `api/search/image?${asked}&k=12`, post)
      .then((found) => $("similar").replaceChildren(...found.hits.map((hit) => card(hit, 320))))
      .catch((error) => failed($("similar"), error)),
  ]);
}

async function subject({ image, box, title, width, height }) {
  const src = image === null ? upload.url : imageUrl(image, 1024);
  if (!width) [width, height] = await sizeOf(image);
  const shown = box ?? [0, 0, width, height];
  const boxes = [{ box: shown, whole: !box, says: "This part" }];
  const pick = (part) => show({ image, box: part, width, height });
  const area = frame({ src, width, height, boxes, pick, alt: box ? `${title}, with the box ${box.map(Math.round)}` : title, lazy: false });
  area.querySelector(".region").disabled = true; // it is what is shown already
  $("subject").replaceChildren(area);
}

async function sizeOf(image) {
  // Boxes are in pixels of the original; the image's own hit has its size.
  const found = await ask("size", `api/search/image?${new URLSearchParams({ id: image, k: 3 })}`);
  const own = found.hits.find((hit) => hit.image_id === image);
  return own?.width ? [own.width, own.height] : [4, 3];
}

function sentences({ hits }) {
  const items = hits.map((hit) => {
    const [start, stop] = hit.span;
    const letters = hit.text; // the span counts characters as Python does, JavaScript counts UTF-16
    const points = Array.from(letters);
    const part = (from, to) => points.slice(from, to).join("");
    return make("li", {}, make("span", {}, part(0, start), make("mark", { textContent: part(start, stop) }), part(stop),
      ...(hit.text_id.endsWith("#generated") ? [make("small", { textContent: " generated" })] : [])),
      make("span", { className: "score", textContent: hit.score.toFixed(3) }));
  });
  $("sentences").replaceChildren(items.length ? make("ol", { className: "sentences" }, ...items) : make("p", { textContent: "No match: there is no sentence." }));
}

function shut() {
  if ($("panel").open) $("panel").close();
}

async function take(file) {
  if (!file) return;
  const url = URL.createObjectURL(file);
  const img = make("img", { src: url });
  try {
    await img.decode();
  } catch { // a format that this browser lacks may still be one that felga reads
    Object.assign(img, { width: 4, height: 3 });
  }
  if (upload) URL.revokeObjectURL(upload.url);
  const typed = file.type.startsWith("image/") ? file : new File([file], file.name, { type: "image/unknown" });
  upload = { file: typed, url, name: file.name, width: img.naturalWidth || 4, height: img.naturalHeight || 3 };
  show({ image: null, box: null });
}

// --- the state is the URL

const before = (fenet) => (fenet ? [] : [["fenet", false]]); // asks for the answer before the FENet

function state() {
  const url = new URLSearchParams(location.search);
  const number = (name, other) => Number.parseInt(url.get(name), 10) || other;
  const box = url.get("box")?.split(",").map(Number);
  return {
    q: url.getAll("q").filter((one) => one.trim()),
    k: number("k", 12), regions: number("regions", 1), all: url.has("all"),
    fenet: !info.fenet || url.get("fenet") !== "false",
    image: url.get("image"), box: box?.length === 4 && box.every(Number.isFinite) ? box : null,
    upload: url.has("upload"),
  };
}

function address({ q, k, regions, all, fenet, image, box, upload: own }) {
  const url = new URLSearchParams([...q.map((one) => ["q", one]), ...before(fenet)]);
  if (k !== 12) url.set("k", k);
  if (regions !== 1) url.set("regions", regions);
  if (all) url.set("all", 1);
  if (image !== null && image !== undefined) url.set("image", image);
  if (own) url.set("upload", 1);
  if (box && (own || image !== null)) url.set("box", box.map((value) => Math.round(value * 10) / 10).join(","));
  return url.size ? `?${url}` : location.pathname;
}

let searched = null; // what the results show, so that the panel does not ask for them again

function render(extra = {}) {
  const now = state();
  $("words").value = now.q.join(", ");
  for (const name of ["k", "regions"]) {
    if (![...$(name).options].some((one) => one.value === String(now[name]))) $(name).add(new Option(now[name]));
    $(name).value = String(now[name]);
  }
  for (const one of switches) one.checked = now.fenet;
  document.title = now.q.length ? `${now.q.join(", ")} – felga` : "felga";
  const key = JSON.stringify([now.q, now.k, now.regions, now.all, now.fenet]);
  if (key !== searched) search(now);
  searched = key;
  if (now.image !== null || now.upload) panel({ image: now.upload ? null : now.image, box: now.box, fenet: now.fenet, ...extra });
  else shut();
}

function go(next, extra) {
  const to = address(next);
  if (to !== location.search) history.pushState(null, "", to);
  render(extra);
}

function show({ image, box, width, height }) {
  go({ ...state(), image, upload: image === null, box }, { width, height });
}

const asked = () => $("words").value.split(",").map((one) => one.trim()).filter(Boolean).slice(0, info.limits.queries);
const fresh = () => ({ q: asked(), k: Number($("k").value), regions: Number($("regions").value), fenet: state().fenet, image: null, box: null });

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  searched = null; // asking again means it
  go(fresh());
});
for (const name of ["k", "regions"]) $(name).addEventListener("change", () => go({ ...fresh(), all: state().all }));
for (const one of switches) one.addEventListener("change", () => go({ ...state(), q: asked(), fenet: one.checked }));
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (event) => take(event.target.files[0]).then(() => (event.target.value = "")));
$("close").addEventListener("click", shut);
$("panel").addEventListener("close", () => {
  const now = state();
  if (now.image !== null || now.upload) go({ ...now, image: null, upload: false, box: null });
});
$("panel").addEventListener("click", (event) => event.target === $("panel") && event.offsetX < 0 && shut());
$("part").addEventListener("submit", (event) => {
  event.preventDefault();
  const now = state();
  const box = $("box").value.split(/[\s,;]+/).filter(Boolean).map(Number);
  const good = box.length === 4 && box.every(Number.isFinite);
  $("box").setCustomValidity(good || !box.length ? "" : "four numbers: x1, y1, x2, y2");
  if (event.target.reportValidity()) show({ image: now.upload ? null : now.image, box: good ? box : null });
});
$("box").addEventListener("input", () => $("box").setCustomValidity(""));
$("entire").addEventListener("click", () => show({ image: state().upload ? null : state().image, box: null }));
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  enter($("token").value);
  location.reload();
});
const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  $("drop").classList.add("on");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("on"));
addEventListener("drop", (event) => {
  $("drop").classList.remove("on");
  if (!holdsFile(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, select") && !$("panel").open) {
    event.preventDefault();
    $("words").select();
  }
});
addEventListener("popstate", () => render());

async function start() {
  remember();
  try {
    info = await ask("info", "api/info");
    for (const one of switches) one.parentElement.hidden = !info.fenet;
    $("about").textContent = `${info.index}: ${info.images.toLocaleString()} images with ${info.regions.toLocaleString()} regions, ${info.texts.toLocaleString()} texts · ${info.encoder}${info.fenet ? " with a FENet" : ""} · felga ${info.felga}`;
  } catch (error) {
    say(capital(error.message) + ".", true);
    if (!$("login").hidden) return;
  }
  render();
  if (!state().q.length && state().image === null) $("words").focus();
}

start();

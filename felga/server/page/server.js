// Asking the server: with the token, if it wants one.

const $ = (id) => document.getElementById(id);
const SECRET = "felga-token"; // of sessionStorage: gone with the tab
const running = {}; // one request per place: a newer one aborts it

// The token of the URL's fragment moves out of sight.
export function remember() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(SECRET, given);
  history.replaceState(null, "", location.pathname + location.search);
}

export async function ask(place, path, options = {}) {
  running[place]?.abort();
  const stop = (running[place] = new AbortController());
  const response = await send(path, { ...options, signal: stop.signal });
  return response.json();
}

async function send(path, options = {}) {
  const token = sessionStorage.getItem(SECRET);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached");
  }
  if (response.status === 401) {
    $("login").hidden = false;
    $("token").focus();
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `the server answered ${response.status}`);
  }
  return response;
}

export const imageUrl = (id, side) => `api/images/${id.split("/").map(encodeURIComponent).join("/")}?max_side=${side}`;

export async function load(img, url) {
  img.addEventListener("error", () => img.classList.add("gone"), { once: true });
  if (!sessionStorage.getItem(SECRET)) {
    img.src = url;
    return;
  }
  try { // an <img> cannot carry a token
    const response = await send(url);
    img.src = URL.createObjectURL(await response.blob());
    img.addEventListener("load", () => URL.revokeObjectURL(img.src), { once: true });
  } catch {
    img.classList.add("gone");
  }
}

export function enter(token) {
  sessionStorage.setItem(SECRET, token);
}

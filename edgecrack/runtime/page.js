"use strict";
const by = (id) => document.getElementById(id);
const tiles = [];
let link = null, tried = -Infinity, heard = performance.now(); // times of the last try to connect and of the last message

function connect() {
  tried = performance.now();
  if (link) {
    link.onmessage = null;
    link.close();
  }
  const opened = (link = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/watch`));
  opened.binaryType = "arraybuffer";
  const next = () => opened.readyState === WebSocket.OPEN && opened.send("next");
  opened.onopen = next;
  opened.onmessage = async ({ data }) => {
    heard = performance.now();
    // Only when this is on the screen the next is asked for: what cannot be shown in time is never sent.
    await (typeof data === "string" ? tell(JSON.parse(data)) : show(data)).catch(console.error);
    next();
  };
}

function watchOver() {
  const closed = link.readyState === WebSocket.CLOSED;
  const silent = performance.now() - heard > 3000; // a network that went away says nothing
  if (closed || silent) {
    alarm("No connection to the detector. Trying again …");
    tiles.forEach((tile) => tile.root.classList.add("old"));
  }
  if (performance.now() - tried > (closed ? 1000 : 4000) && (closed || silent)) connect();
}

function alarm(text) {
  by("alarm").hidden = !text;
  by("alarm").textContent = text;
}

function tile(number) {
  while (tiles.length <= number) {
    const root = by("source").content.firstElementChild.cloneNode(true);
    const part = (name) => root.querySelector(name);
    tiles.push({
      root, canvas: part("canvas"), shade: part(".shade"), state: part(".state"), name: part(".name"), pace: part(".pace"),
      latency: part(".latency"), dropped: part(".dropped"), share: part(".share"),
    });
    by("sources").append(root);
  }
  return tiles[number];
}

async function show(data) {
  const { canvas } = tile(new Uint8Array(data)[0]);
  const picture = await createImageBitmap(new Blob([data.slice(1)], { type: "image/jpeg" }));
  canvas.width = picture.width; // which clears it, in the same breath as it is drawn
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

async function tell(state) {
  alarm(state.troubles.map((trouble) => `Not recorded: ${trouble}`).join("; "));
  while (tiles.length > state.sources.length) tiles.pop().root.remove(); // of a run before, with more cameras
  state.sources.forEach((source, number) => tellSource(tile(number), source));
  if (!wanted && performance.now() - moved > 1500) setSlider(state.threshold);
  by("slider").disabled = false;
  by("temperature").textContent = state.temperature === null ? "–" : `${Math.round(state.temperature)} °C`;
  by("temperature").classList.toggle("high", state.temperature >= 90);
  by("free").textContent = state.free === null ? "–" : bytes(state.free);
  by("free").classList.toggle("high", state.free !== null && state.free < 2e9);
  const lost = state.sources.filter((source) => source.state === "lost").length;
  document.title = lost ? `${lost} lost – edgecrack` : "edgecrack";
}

function tellSource({ root, canvas, shade, state, name, pace, latency, dropped, share }, source) {
  const silent = source.state === "connected" && source.silence > 2;
  const shown = silent ? `no picture for ${duration(source.silence)}` : source.state;
  root.className = `${silent ? "silent" : source.state} ${shown === "connected" ? "" : "old"}`;
  state.textContent = shown;
  name.textContent = source.name.replace(/^\w+:\/\/(\*+@)?/, "");
  canvas.setAttribute("aria-label", source.name);
  shade.hidden = shown === "connected";
  shade.textContent = source.reason ? `${shown}: ${source.reason}` : shown;
  pace.textContent = source.pace.toFixed(1);
  latency.textContent = shown !== "connected" ? "–" : milliseconds(source.latency);
  dropped.textContent = source.dropped;
  share.textContent = source.crack_share === null ? "–" : `${(100 * source.crack_share).toFixed(2)} %`;
}

const milliseconds = (value) => (value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);
const duration = (value) => (value < 100 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`);
const bytes = (value) => (value < 100e9 ? `${(value / 1e9).toFixed(1)} GB` : `${Math.round(value / 1e9)} GB`);

function setSlider(value) {
  by("slider").value = value;
  by("level").textContent = Number(value).toFixed(2);
}

let wanted = null, moved = -Infinity; // the threshold that is on its way, and when the slider was last moved

async function setThreshold(value) {
  moved = performance.now();
  setSlider(value);
  const sending = wanted !== null;
  wanted = by("slider").value;
  if (sending) return; // whoever sends takes the newest when it is done
  for (let sent = null; sent !== wanted; ) {
    sent = wanted;
    await fetch(`threshold?value=${sent}`, { method: "POST" }).catch(() => {});
  }
  wanted = null;
}

async function markPlace() {
  by("mark").disabled = true;
  const answer = await fetch("mark", { method: "POST", signal: AbortSignal.timeout(5000) }).catch(() => null);
  by("mark").disabled = false;
  by("marked").classList.toggle("failed", !answer?.ok);
  if (!answer) {
    by("marked").textContent = "NOT marked: no connection";
  } else if (!answer.ok) {
    by("marked").textContent = `NOT marked: ${await answer.text()}`;
  } else {
    const [first] = await answer.json();
    by("marked").textContent = `Marked at ${new Date(first.utc).toLocaleTimeString()}, frame ${first.index}`;
  }
}

by("mark").onclick = markPlace;
by("slider").oninput = () => setThreshold(by("slider").value);
by("lower").onclick = () => setThreshold(Number(by("slider").value) - 0.01);
by("higher").onclick = () => setThreshold(Number(by("slider").value) + 0.01);
document.onvisibilitychange = () => {
  heard = performance.now(); // what was asleep has heard nothing
};
setInterval(watchOver, 500);
connect();

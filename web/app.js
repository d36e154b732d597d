// The page: loads the networks, opens what the user chooses, and shows the results.

import { Detector } from "./detector.js";
import { Painter, percent } from "./drawing.js";
import { loadRuntime, openEngine, supported } from "./engine.js";
import { Log } from "./log.js";
import { Loop } from "./loop.js";
import { loadModel } from "./model.js";
import { close, InputError, nextFrame, openCamera, openFilm, openPicture } from "./sources.js";

const SPOKEN = 2000; // milliseconds between two announcements to a screen reader
const REFRESH = 500; // milliseconds between two updates of the frame rate
const $ = (id) => document.getElementById(id);
const video = $("video");
const page = { running: null }; // model, detector, constants, painter, log; `running` identifies what is open

async function main() {
  if (!supported()) throw new InputError("This browser lacks WebAssembly SIMD. Use a browser from 2023 or later.");
  say("Loading the networks.");
  await serviceWorker();
  page.constants = await (await fetch("runtime.json")).json();
  await loadRuntime();
  page.model = await loadModel();
  const { detector } = page.constants;
  page.detector = new Detector(detector, detector.name === "none" ? null : await openEngine("yunet.tflite"));
  await keepOffline().catch(() => null); // some private windows refuse the cache
  const { class_names: names, architecture, quantization, license } = page.model.spec;
  page.painter = new Painter($("people"), names, page.constants.colors);
  page.log = new Log(names);
  $("model").textContent = `Model: ${architecture}, ${quantization}. Classes: ${names.join(", ")}. ${license}`;
  $("center").hidden = detector.name !== "none";
  for (const id of ["camera", "file"]) $(id).disabled = false;
  say("Ready. Open the camera, a picture or a film.");
}

/** Waits until the service worker answers the requests of the page, so that it keeps the large files. */
async function serviceWorker() {
  if (!navigator.serviceWorker) return; // a page from http on another computer
  try {
    await navigator.serviceWorker.register("sw.js");
    if (navigator.serviceWorker.controller) return;
    await new Promise((resolve) => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, 3000);
    });
  } catch {
    // private windows of some browsers refuse it: the page works, but not offline
  }
}

/** Keeps the files that were loaded before the service worker answered. */
async function keepOffline() {
  if (!navigator.serviceWorker) return;
  const cache = await caches.open("ferjax");
  const loaded = [location.pathname, ...performance.getEntriesByType("resource").map((entry) => entry.name)];
  await Promise.all(loaded.map(async (name) => (await cache.match(name)) ?? cache.add(name)));
}

/** Runs what the user asked for, and says the sentence that it returns; what was open before is closed. */
async function open(start) {
  stop();
  const run = (page.running = {});
  page.log.rows = [];
  page.painter.clear();
  $("stop").disabled = false;
  $("save").disabled = true;
  const said = await start(run).catch((error) => error);
  if (page.running !== run) return; // stopped, or something else was opened
  stop();
  if (said instanceof Error) fail(said);
  else say(said);
}

function stop() {
  page.running = null;
  close(video);
  $("stop").disabled = true;
  $("save").disabled = !page.log.rows.length;
}

async function runCamera(run) {
  say("Waiting for the camera.");
  await openCamera(video, () => page.running === run);
  say("The camera is open.");
  await runVideo(run, "");
  return "The camera is closed.";
}

async function runFile(run, file) {
  say(`Opening ${file.name}.`);
  const picture = await openPicture(file);
  if (page.running !== run) return "";
  if (picture) return runPicture(picture, file.name);
  await openFilm(video, file);
  say(`${file.name} is playing.`);
  await runVideo(run, file.name);
  return `${file.name} is finished.`;
}

async function runPicture(picture, name) {
  const start = performance.now();
  const result = await newLoop().picture(grab(picture, picture.width, picture.height, { time: 0, index: 0, name }));
  show(result, performance.now() - start - result.latency.detect - result.latency.classify);
  $("rate").textContent = "";
  return described(result.faces) || "No face was found in this picture.";
}

async function runVideo(run, name) {
  const loop = newLoop();
  const rate = { frames: 0, since: performance.now() };
  const spoken = { text: "", since: performance.now() };
  let opened = name ? 0 : null; // time of a camera's first frame
  for (let index = 0; page.running === run; index++) {
    const shown = await nextFrame(video);
    if (shown === null || page.running !== run) break;
    opened ??= shown;
    const time = shown - opened;
    const start = performance.now();
    const frame = grab(video, video.videoWidth, video.videoHeight, { time, index, name });
    const capture = performance.now() - start;
    const result = await loop.video(frame);
    if (page.running !== run) break;
    show(result, capture);
    count(rate, result.latency);
    announce(spoken, result.faces);
  }
}

function newLoop() {
  return new Loop(page.model, page.detector, page.constants);
}

const hidden = document.createElement("canvas");
const pixels = hidden.getContext("2d", { willReadFrequently: true });

/** Copies a video or a picture and returns it as a frame. */
function grab(source, width, height, about) {
  if (hidden.width !== width || hidden.height !== height) Object.assign(hidden, { width, height });
  pixels.drawImage(source, 0, 0);
  return { canvas: hidden, pixels, width, height, ...about };
}

/** Draws and logs a result. */
function show(result, capture) {
  const start = performance.now();
  const canvas = $("view");
  const { width, height } = result.frame;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(hidden, 0, 0);
  page.painter.draw(canvas, result.faces);
  canvas.setAttribute("aria-label", described(result.faces) || "No face");
  Object.assign(result.latency, { capture, draw: performance.now() - start });
  page.log.write(result);
  $("save").disabled = !page.log.rows.length;
}

/** Shows frames per second and the latencies of the last frame. */
function count(rate, { detect, classify }) {
  rate.frames += 1;
  const elapsed = performance.now() - rate.since;
  if (elapsed < REFRESH) return;
  const speed = ((1000 * rate.frames) / elapsed).toFixed(1);
  $("rate").textContent = `${speed} frames/s, detector ${detect.toFixed(1)} ms, classifier ${classify.toFixed(1)} ms`;
  Object.assign(rate, { frames: 0, since: performance.now() });
}

/** Tells a screen reader the labels, when they changed. */
function announce(spoken, faces) {
  const text = faces.map((face) => `Person ${face.track}: ${face.label}`).join(". ");
  if (text === spoken.text || performance.now() - spoken.since < SPOKEN) return;
  Object.assign(spoken, { text, since: performance.now() });
  say(text || "No face.");
}

function described(faces) {
  const one = ({ track, label, reason, confidence }) =>
    `Person ${track}: ${label}${reason && ` (${reason})`}, ${percent(confidence)}`;
  return faces.map(one).join(". ");
}

function say(text) {
  $("status").className = "";
  $("status").textContent = text;
}

function fail(error) {
  say(error instanceof InputError ? error.message : `The page does not work: ${error.message}. Reload it.`);
  $("status").className = "error";
  if (!(error instanceof InputError)) console.error(error);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(page.log.file());
  link.download = "faces.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

$("camera").addEventListener("click", () => open(runCamera));
$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file can be opened again
  if (file) open((run) => runFile(run, file));
});
$("stop").addEventListener("click", () => {
  stop();
  say("Stopped.");
  $("camera").focus(); // the button that had the focus is disabled now
});
$("save").addEventListener("click", save);
main().catch(fail);

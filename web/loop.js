// Detects, tracks and classifies the faces of frames: the counterpart of ferjax/runtime/loop.py.
//
// A face of a result is {track, box, label, confidence, reason, probabilities, raw}: arrays in the order of the class
// names; `raw` is null if the face was not classified in this frame.

import { nonMaxSuppression } from "./detector.js";
import { round } from "./preprocessing.js";
import { keep, Labeler, quality, Smoother } from "./smoothing.js";
import { VideoTracker } from "./tracking.js";

/** The loop over the frames of one camera, film or picture. */
export class Loop {
  /**
   * @param {import("./model.js").Model} model the classifier.
   * @param {import("./detector.js").Detector} detector the detector.
   * @param {Object} constants runtime.json.
   */
  constructor(model, detector, constants) {
    Object.assign(this, { model, detector, ...constants.loop });
    this.tracker = new VideoTracker(detector, constants);
    this.smoother = new Smoother(constants.smoother);
    this.labeler = new Labeler(model.spec.class_names, constants.limits, constants.labeler);
    this.scheduler = new Scheduler(this.rate);
    this.shown = new Map(); // id -> {label, confidence, reason, probabilities}
  }

  /** Returns {frame, faces, latency} of the next frame of a video. */
  async video(frame) {
    const start = performance.now();
    return this.#classify(frame, await this.tracker.track(frame), start);
  }

  /** Returns {frame, faces, latency} of a picture. */
  async picture(frame) {
    const start = performance.now();
    const faces = nonMaxSuppression(await this.detector.detect(frame), this.detector.max_iou);
    const tracks = faces.map((face, i) => ({ ...face, id: i + 1, seen: true, lastSeen: frame.time }));
    return this.#classify(frame, tracks, start);
  }

  async #classify(frame, tracks, start) {
    const found = performance.now();
    const visible = tracks.filter((track) => frame.time - track.lastSeen <= this.max_unseen);
    const raw = new Map();
    for (const track of this.scheduler.choose(visible, frame.time)) {
      const face = this.detector.crop(frame, track, this.model.spec);
      const probabilities = await this.model.probabilities(face);
      const smoothed = this.smoother.smooth(track.id, probabilities, frame.time);
      const decision = this.labeler.label(track.id, smoothed, quality(face, track.box[2]));
      this.shown.set(track.id, { ...decision, probabilities: smoothed });
      raw.set(track.id, probabilities);
    }
    const alive = new Set(tracks.map((track) => track.id));
    for (const memory of [this.smoother, this.labeler, this.scheduler]) memory.keep(alive);
    keep(this.shown, alive);
    const faces = visible
      .filter((track) => this.shown.has(track.id))
      .map(({ id, box }) => ({ track: id, box: box.map(round), ...this.shown.get(id), raw: raw.get(id) ?? null }));
    return { frame, faces, latency: { detect: found - start, classify: performance.now() - found } };
  }
}

/** Chooses the faces to classify in each frame: each `rate` times a second, spread evenly over the frames. */
class Scheduler {
  constructor(rate) {
    Object.assign(this, { period: 1 / rate, last: new Map(), now: NaN, step: 0, credit: 0 });
  }

  /** Returns the faces to classify now: those that would be late in the next frame, then the longest waiting. */
  choose(tracks, now) {
    const step = now - this.now;
    if (step > 0) {
      // false in the first frame, where it is NaN
      this.step += (Math.min(step, this.period) - this.step) * (this.step ? 0.2 : 1);
      this.credit += (tracks.length * Math.min(step, this.period)) / this.period;
    }
    this.now = now;
    const time = (track) => this.last.get(track.id) ?? -Infinity;
    const waiting = tracks.filter((track) => track.seen).sort((a, b) => time(a) - time(b) || 0);
    const late = now + this.step - 1.001 * this.period; // last time from which the next frame is over a period away
    const urgent = waiting.filter((track) => time(track) < late).length;
    const chosen = waiting.slice(0, Math.max(urgent, Math.trunc(this.credit)));
    this.credit = Math.max(0, Math.min(this.credit - chosen.length, 1));
    for (const track of chosen) this.last.set(track.id, now);
    return chosen;
  }

  /** Deletes the state of all other tracks. */
  keep(alive) {
    keep(this.last, alive);
  }
}

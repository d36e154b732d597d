// Tracks faces across frames: the counterpart of ferjax/runtime/faces/tracking.py and video.py.

import { nonMaxSuppression } from "./detector.js";

/** Moves a center at constant velocity; the logarithm of the side is constant (a g-h filter). */
class Motion {
  constructor([x, y, size], time) {
    Object.assign(this, { x, y, size, time, vx: 0, vy: 0, detections: 1 });
  }

  /** Returns [x, y, log side]. */
  at(time) {
    const elapsed = time - this.time;
    return [this.x + this.vx * elapsed, this.y + this.vy * elapsed, this.size];
  }

  correct([x, y, size], time) {
    const n = Math.min(this.detections + 1, 6);
    const [g, h] = [(2 * (2 * n - 1)) / (n * (n + 1)), 6 / (n * (n + 1))];
    const [px, py] = this.at(time);
    const [ex, ey] = [x - px, y - py];
    this.x = px + g * ex;
    this.y = py + g * ey;
    this.size += (size - this.size) * Math.max(1 / n, 0.25);
    if (time > this.time) {
      this.vx += (h * ex) / (time - this.time);
      this.vy += (h * ey) / (time - this.time);
    }
    this.time = time;
    this.detections += 1;
  }
}

/**
 * Assigns the faces detected in each frame to tracks.
 *
 * A track is {id, box, landmarks, score, seen, lastSeen}: box and landmarks are predicted if the face was not detected.
 */
export class Tracker {
  /** @param {Object} constants "tracker" of runtime.json. */
  constructor(constants) {
    Object.assign(this, constants);
    this.states = [];
    this.nextId = 1;
    this.time = NaN;
    this.steps = [Infinity, Infinity];
  }

  /** Returns all tracks, confirmed or not, with boxes predicted for a time. */
  predict(time) {
    return this.states.map((state) => asTrack(state, time));
  }

  /** Processes the faces of one frame and returns the confirmed tracks; `confirmed` confirms all faces at once. */
  update(faces, time, confirmed = false) {
    if (time > this.time) this.steps = [this.steps[1], time - this.time];
    this.time = time;
    this.states = this.states.filter((state) => time - state.lastSeen <= this.#maxUnseen(state));
    const matched = new Set();
    for (const [state, face] of this.#assign(faces, time)) {
      state.motion.correct(measure(face.box), time);
      Object.assign(state, { face, lastSeen: time, hits: state.hits + 1 });
      state.bestScore = Math.max(state.bestScore, face.score);
      state.confirmed ||= confirmed || (state.hits >= this.min_hits && state.bestScore >= this.confirm_score);
      matched.add(face);
    }
    for (const face of faces.filter((one) => !matched.has(one))) {
      this.states.push({
        id: this.nextId++,
        motion: new Motion(measure(face.box), time),
        face,
        lastSeen: time,
        hits: 1,
        bestScore: face.score,
        confirmed: confirmed || (this.min_hits <= 1 && face.score >= this.confirm_score),
      });
    }
    return this.states.filter((state) => state.confirmed).map((state) => asTrack(state, time));
  }

  /** Deletes all tracks; their ids are not reused. */
  reset() {
    this.states = [];
  }

  #maxUnseen({ confirmed, hits }) {
    const established = confirmed && hits >= this.min_hits;
    const seconds = established ? this.time_to_live : Math.min(this.tentative_seconds, this.time_to_live);
    return Math.max(seconds, this.min_missed_frames * Math.min(...this.steps));
  }

  /** Returns pairs [state, face], matched greedily by cost. */
  #assign(faces, time) {
    const costs = [];
    for (const state of this.states) {
      for (const face of faces) {
        const value = cost(state.motion.at(time), measure(face.box), time - state.lastSeen);
        if (value < 1) costs.push([value, state, face]);
      }
    }
    costs.sort((a, b) => a[0] - b[0]);
    const taken = new Set();
    return costs.flatMap(([, state, face]) => {
      if (taken.has(state) || taken.has(face)) return [];
      taken.add(state).add(face);
      return [[state, face]];
    });
  }
}

/** Detects and tracks faces: each tracked face is searched near its box, new faces in the whole frame now and then. */
export class VideoTracker {
  /**
   * @param {import("./detector.js").Detector} detector the detector.
   * @param {Object} constants runtime.json.
   */
  constructor(detector, constants) {
    this.detector = detector;
    this.tracker = new Tracker(constants.tracker);
    this.searchSeconds = constants.video.search_seconds;
    this.size = "";
    this.searched = 0; // time of the last search of the whole frame
  }

  /** Returns the confirmed tracks of a frame. If the frame's size changes, all tracks are deleted. */
  async track(frame) {
    const { time } = frame;
    const size = `${frame.width}x${frame.height}`;
    if (size !== this.size || !this.detector.run) {
      if (size !== this.size) this.tracker.reset();
      Object.assign(this, { size, searched: time });
      return this.tracker.update(await this.detector.detect(frame), time, true);
    }
    const found = [];
    for (const { box } of this.tracker.predict(time)) {
      const face = await this.detector.detectNear(frame, box);
      if (face) found.push(face);
    }
    if (time - this.searched >= this.searchSeconds) {
      this.searched = time;
      found.push(...(await this.detector.candidates(frame)));
    }
    return this.tracker.update(nonMaxSuppression(found, this.detector.max_iou), time);
  }
}

function asTrack({ id, motion, face, lastSeen }, time) {
  const box = square(motion.at(time));
  const enlarged = box[2] / face.box[2];
  const landmarks = face.landmarks?.map(([x, y]) => [
    (x - face.box[0]) * enlarged + box[0],
    (y - face.box[1]) * enlarged + box[1],
  ]);
  return { id, box, landmarks: landmarks ?? null, score: face.score, seen: lastSeen === time, lastSeen };
}

/** Returns the cost of assigning a face to a track, below 1 if allowed: distance in face widths plus size change. */
function cost(expected, measured, unseen) {
  const distance = Math.hypot(measured[0] - expected[0], measured[1] - expected[1]) / Math.exp(expected[2]);
  const growth = Math.abs(measured[2] - expected[2]);
  return growth < 0.7 ? distance / (0.6 + Math.min(unseen, 1)) + growth : Infinity;
}

function measure([x, y, w, h]) {
  return [x + w / 2, y + h / 2, Math.log(Math.max(w, 1))];
}

function square([x, y, size]) {
  const side = Math.exp(Math.min(size, 12));
  return [x - side / 2, y - side / 2, side, side];
}

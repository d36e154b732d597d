// Turns the probabilities of single frames into stable labels: the counterpart of ferjax/runtime/smoothing.py.

/** Smooths the probabilities of each track: their mean since the last change of expression, found by CUSUM. */
export class Smoother {
  /** @param {Object} constants "smoother" of runtime.json. */
  constructor(constants) {
    Object.assign(this, constants);
    this.seconds = (2 * this.window - 1) * this.frame;
    this.tracks = new Map(); // id -> {buffer: [[time, probabilities]], sums, since, last}
  }

  /** Adds one prediction of a track and returns the smoothed probabilities. */
  smooth(id, probabilities, time) {
    let start = time - this.seconds + this.frame / 2;
    let state = this.tracks.get(id);
    if (state) {
      start = Math.max(start, this.#change(state, probabilities, mean(state.buffer), time));
    } else {
      const { length } = probabilities;
      state = { buffer: [], sums: Array(length).fill(0), since: Array(length).fill(time), last: time };
      this.tracks.set(id, state);
    }
    state.buffer.push([time, probabilities]);
    while (state.buffer[0][0] < start) state.buffer.shift();
    return mean(state.buffer);
  }

  /** Adds a prediction to the sums and returns the start time of a detected change, or -Infinity. */
  #change(state, current, before, time) {
    const weight = Math.min(1, (time - state.last) / this.independent);
    const logs = current.map((p) => Math.log(Math.max(p, 1e-9)));
    const likeliest = logs[largest(before)];
    state.last = time;
    state.sums = state.sums.map((sum, c) => {
      const next = sum + weight * Math.max(-this.clip, Math.min(this.clip, logs[c] - likeliest));
      if (sum <= 0 && next > 0) state.since[c] = time;
      return Math.max(next, 0);
    });
    const changed = largest(state.sums);
    if (state.sums[changed] <= this.threshold) return -Infinity;
    state.sums.fill(0);
    return state.since[changed];
  }

  /** Deletes the state of all other tracks. */
  keep(alive) {
    keep(this.tracks, alive);
  }
}

/** Selects the label of each track, with hysteresis against flicker; "uncertain" below the limits. */
export class Labeler {
  /**
   * @param {string[]} names the class names.
   * @param {Object} limits "limits" of runtime.json.
   * @param {Object} constants "labeler" of runtime.json.
   */
  constructor(names, limits, constants) {
    Object.assign(this, { names, limits, ...constants });
    this.shown = new Map();
  }

  /** Returns {label, confidence, reason} for the smoothed probabilities of a track and the quality of its crop. */
  label(id, smoothed, quality) {
    const shown = this.shown.get(id);
    let best = largest(smoothed);
    if (shown !== undefined && smoothed[best] - smoothed[shown] < this.hysteresis) best = shown;
    this.shown.set(id, best);
    const confidence = smoothed[best];
    const reason = failure(this.limits, quality) || (confidence < this.limits.confidence ? "confidence" : "");
    return { label: reason ? this.uncertain : this.names[best], confidence, reason };
  }

  /** Deletes the state of all other tracks. */
  keep(alive) {
    keep(this.shown, alive);
  }
}

/** Returns the first limit that a crop fails: "size", "bright", "dark" or "blur"; "" if it passes. */
function failure(limits, measured) {
  if (measured.size < limits.size) return "size";
  if (measured.exposure > limits.exposure[1]) return "bright";
  if (measured.exposure < limits.exposure[0] || measured.contrast < limits.contrast) return "dark";
  return measured.sharpness < limits.sharpness ? "blur" : "";
}

/**
 * Measures the quality of a crop: size, sharpness, exposure and contrast, see `Quality` of the Python module.
 *
 * @param {Object} crop a result of `Detector.crop`.
 * @param {number} size side of the face in the frame, in pixels.
 */
export function quality({ width, height, channels, data }, size) {
  const gray = Array.from({ length: width * height }, (_, i) => {
    const colors = data.subarray(channels * i, channels * (i + 1));
    return Math.floor(colors.reduce((a, b) => a + b, 0) / channels);
  });
  const at = (x, y) => gray[mirrored(y, height) * width + mirrored(x, width)];
  const edges = gray.map((value, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    return at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) - 4 * value;
  });
  const [exposure, variance] = moments(gray);
  return { size, sharpness: moments(edges)[1] / Math.max(variance, 1), exposure, contrast: Math.sqrt(variance) };
}

/** Returns an index mirrored at the edges without repeating them, as OpenCV does. */
function mirrored(i, length) {
  if (length === 1) return 0;
  return i < 0 ? -i : i >= length ? 2 * length - 2 - i : i;
}

/** Returns mean and variance. */
function moments(values) {
  const average = values.reduce((a, b) => a + b, 0) / values.length;
  return [average, values.reduce((sum, v) => sum + (v - average) ** 2, 0) / values.length];
}

/** Returns the mean of the probabilities in a buffer. */
function mean(buffer) {
  return buffer[0][1].map((_, c) => buffer.reduce((sum, [, p]) => sum + p[c], 0) / buffer.length);
}

/** Returns the index of the largest value. */
export function largest(values) {
  return values.indexOf(Math.max(...values));
}

/** Deletes the entries of a map whose key is not in a set. */
export function keep(map, alive) {
  for (const id of map.keys()) if (!alive.has(id)) map.delete(id);
}

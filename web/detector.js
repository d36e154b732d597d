// Finds faces, and crops them: the counterpart of ferjax/runtime/faces/detector.py and finders.py.
//
// A face is {box: [x, y, width, height], score, landmarks}: landmarks are five points [x, y], or null. A frame is
// {canvas, pixels, width, height, time, index, name}: `pixels` is its 2D context.

import { round, toInput } from "./preprocessing.js";

/** YuNet, or the central square of the frame if the page has no detector. */
export class Detector {
  /**
   * @param {Object} constants "detector" of runtime.json.
   * @param {Function | null} run a result of `openEngine` for YuNet, or null.
   */
  constructor(constants, run) {
    Object.assign(this, constants);
    this.run = run;
    this.canvas = document.createElement("canvas");
    this.pixels = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  /** Returns the faces in a whole frame. */
  async detect(frame) {
    if (!this.run) return [centerSquare(frame)];
    return this.#search(frame, null, this.#scale(frame), this.min_size, Infinity, this.score);
  }

  /** Finds faces as `detect` with a lower threshold, for faces that other frames confirm. */
  async candidates(frame) {
    return this.#search(frame, null, this.#scale(frame), this.min_size, Infinity, this.candidate_score);
  }

  /** Returns the face at about the place and size of a box, or null. */
  async detectNear(frame, [x, y, w, h]) {
    const [margin, [smaller, larger]] = [this.margin, this.size_change];
    const region = [x - margin * w, y - margin * h, (1 + 2 * margin) * w, (1 + 2 * margin) * h];
    const minSize = Math.max(this.min_size, smaller * this.track_size);
    const found = await this.#search(frame, region, this.track_size / w, minSize, larger * w, this.candidate_score);
    return found.reduce((best, face) => (best && best.score >= face.score ? best : face), null);
  }

  #scale(frame) {
    return Math.min(1, this.max_side / Math.max(frame.width, frame.height));
  }

  /** Searches a resized region; `minSize` is in pixels of the resized region, `maxFace` in pixels of the frame. */
  async #search(frame, region, scale, minSize, maxFace, score) {
    const [left, top, width, height] = clipped(region ?? [0, 0, frame.width, frame.height], frame);
    if (width <= 0 || height <= 0) return [];
    scale = Math.min(scale, this.max_scale);
    const small = [width, height].map((side) => Math.max(1, round(side * scale)));
    const [fx, fy] = [width / small[0], height / small[1]];
    const size = this.sizes.find(([w, h]) => w >= small[0] && h >= small[1]);
    const image = this.#resized(frame, [left, top, width, height], small, size);
    const outputs = await this.run(image, [1, size[1], size[0], 3], size.join("x"));
    const faces = this.#decode(outputs, size[0], score).filter(
      ({ box }) => box[2] >= 0.8 * minSize && box[2] <= maxFace / fx,
    );
    return faces.map(({ box, landmarks, ...face }) => ({
      ...face,
      box: [box[0] * fx + left, box[1] * fy + top, box[2] * fx, box[3] * fy],
      landmarks: landmarks.map(([x, y]) => [x * fx + left, y * fy + top]),
    }));
  }

  /** Returns a region as float32 BGR in the upper left corner of an image of `size`; the rest is black. */
  #resized(frame, region, small, size) {
    [this.canvas.width, this.canvas.height] = size; // clears it
    this.pixels.imageSmoothingQuality = "high";
    this.pixels.drawImage(frame.canvas, ...region, 0, 0, ...small);
    const { data } = this.pixels.getImageData(0, 0, ...size);
    const image = new Float32Array((data.length / 4) * 3);
    for (let i = 0, j = 0; i < data.length; i += 4, j += 3) {
      image[j] = data[i + 2];
      image[j + 1] = data[i + 1];
      image[j + 2] = data[i];
    }
    return image;
  }

  /** Returns the faces in YuNet's outputs, for an image of this width. */
  #decode(outputs, imageWidth, threshold) {
    const faces = [];
    for (const level of this.levels) {
      const [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map((name) => outputs[`${name}_${level}`]);
      const columns = imageWidth / level;
      for (let i = 0; i < cls.length; i++) {
        const score = Math.sqrt(sigmoid(cls[i]) * sigmoid(obj[i]));
        if (score < threshold) continue;
        const [column, row] = [i % columns, Math.floor(i / columns)];
        const [dx, dy, w, h] = bbox.subarray(4 * i, 4 * i + 4);
        const [x, y] = [(column + dx) * level, (row + dy) * level];
        const landmarks = [0, 1, 2, 3, 4].map((k) => [
          (column + kps[10 * i + 2 * k]) * level,
          (row + kps[10 * i + 2 * k + 1]) * level,
        ]);
        faces.push({ box: this.#square(x, y, Math.exp(w) * level, Math.exp(h) * level), score, landmarks });
      }
    }
    return nonMaxSuppression(faces, this.max_iou);
  }

  /** Converts a box of YuNet, given by center and size, to the square from forehead to chin. */
  #square(x, y, w, h) {
    const side = this.square_side * (w + h);
    return [x - side / 2, y - this.square_top * side, side, side];
  }

  /**
   * Crops a face to the input of a model: square, rotated so that the eyes are level, resized.
   *
   * @param {Object} frame the frame.
   * @param {Object} face its box and landmarks.
   * @param {Object} spec the spec of the model.
   */
  crop(frame, face, spec) {
    const [x, y, w, h] = face.box;
    const side = Math.max(w, h, 1);
    const pixels = round(side);
    const angle = tilt(face, this.max_tilt);
    const [left, top] = [round(x + (w - pixels) / 2), round(y + (h - pixels) / 2)];
    const inside = Math.min(left, top) >= 0 && left + pixels <= frame.width && top + pixels <= frame.height;
    const square =
      !angle && inside
        ? colors(frame, left, top, pixels, pixels)
        : rotated(frame, [x + w / 2, y + h / 2], side, angle, pixels);
    return toInput(square, spec);
  }
}

/** Removes faces that overlap a face with a higher score. */
export function nonMaxSuppression(faces, maxIou) {
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => iou(face.box, other.box) <= maxIou)) kept.push(face);
  }
  return kept;
}

function iou(a, b) {
  const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, width) * Math.max(0, height);
  return shared ? shared / (a[2] * a[3] + b[2] * b[3] - shared) : 0;
}

function centerSquare({ width, height }) {
  const side = Math.min(width, height);
  return { box: [(width - side) >> 1, (height - side) >> 1, side, side], score: 1, landmarks: null };
}

/** Returns a region as whole pixels [left, top, width, height], clipped to the frame. */
function clipped([x, y, w, h], frame) {
  const [left, top] = [Math.max(0, Math.floor(x)), Math.max(0, Math.floor(y))];
  return [left, top, Math.min(frame.width, Math.ceil(x + w)) - left, Math.min(frame.height, Math.ceil(y + h)) - top];
}

/** Returns the angle of the line between the eyes in radians, clockwise on the screen; 0 without landmarks. */
function tilt({ landmarks }, maxTilt) {
  if (!landmarks) return 0;
  const [[ax, ay], [bx, by]] = landmarks.slice(0, 2).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const angle = Math.atan2(by - ay, bx - ax);
  return Math.abs(angle) < maxTilt ? angle : 0;
}

/** Returns a rectangle inside a frame as an RGB image. */
function colors(frame, left, top, width, height) {
  const { data } = frame.pixels.getImageData(left, top, width, height);
  const image = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; j < image.length; i += 4, j += 3) {
    image[j] = data[i];
    image[j + 1] = data[i + 1];
    image[j + 2] = data[i + 2];
  }
  return { width, height, channels: 3, data: image };
}

/** Returns the square of this side about a center, rotated; pixels outside the frame repeat its edge. */
function rotated(frame, center, side, angle, pixels) {
  const [cosine, sine] = [Math.cos(angle) * (side / pixels), Math.sin(angle) * (side / pixels)];
  const half = pixels / 2 - 0.5; // from the first pixel center to the center
  const reach = (Math.abs(cosine) + Math.abs(sine)) * half + 2;
  const around = [center[0] - reach, center[1] - reach, 2 * reach, 2 * reach];
  const inner = [
    Math.min(Math.max(around[0], 0), frame.width - 1),
    Math.min(Math.max(around[1], 0), frame.height - 1),
  ];
  const [left, top, width, height] = clipped(
    [...inner, Math.max(1, around[0] + around[2] - inner[0]), Math.max(1, around[1] + around[3] - inner[1])],
    frame,
  );
  const source = colors(frame, left, top, width, height);
  const data = new Uint8Array(pixels * pixels * 3);
  const column = (x) => 3 * (Math.min(Math.max(x, 0), frame.width - 1) - left);
  const row = (y) => 3 * width * (Math.min(Math.max(y, 0), frame.height - 1) - top);
  for (let v = 0, out = 0; v < pixels; v++) {
    for (let u = 0; u < pixels; u++) {
      const x = center[0] - 0.5 + cosine * (u - half) - sine * (v - half);
      const y = center[1] - 0.5 + sine * (u - half) + cosine * (v - half);
      const [x0, y0] = [Math.floor(x), Math.floor(y)];
      const [fx, fy] = [x - x0, y - y0];
      const [above, below, before, after] = [row(y0), row(y0 + 1), column(x0), column(x0 + 1)];
      for (let k = 0; k < 3; k++) {
        const upper = source.data[above + before + k] * (1 - fx) + source.data[above + after + k] * fx;
        const lower = source.data[below + before + k] * (1 - fx) + source.data[below + after + k] * fx;
        data[out++] = round(upper * (1 - fy) + lower * fy);
      }
    }
  }
  return { width: pixels, height: pixels, channels: 3, data };
}

function sigmoid(value) {
  return 1 / (1 + Math.exp(-value));
}

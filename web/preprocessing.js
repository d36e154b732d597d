// Fits a face to the input of a model: the counterpart of ferjax/runtime/preprocessing.py.
//
// An image is {width, height, channels, data}: data is a Uint8Array (height, width, channels), RGB or gray.

const PRECISION = 22; // bits of a weight's fraction in Pillow's resampling of 8-bit images

/** Rounds to the nearest integer, halves to the even one, as Python does. */
export function round(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}

/**
 * Converts a face to the size and color order of a model.
 *
 * Color becomes gray by ITU-R 601 luma. An image of another size is cropped at its center to the aspect ratio of the
 * result and resized with Pillow's BILINEAR filter, which is antialiased. The result is the same to the bit.
 *
 * @param {{width: number, height: number, channels: number, data: Uint8Array}} face gray or RGB.
 * @param {Object} spec the spec of the model.
 */
export function toInput(face, spec) {
  const [height, width] = spec.input_size;
  const gray = spec.color_order === "gray";
  let image = gray ? toGray(face) : toColor(face);
  if (image.width !== width || image.height !== height) {
    const across = Math.max(1, Math.min(image.width, round((image.height * width) / height)));
    const down = Math.max(1, Math.min(image.height, round((image.width * height) / width)));
    image = cut(image, (image.width - across) >> 1, (image.height - down) >> 1, across, down);
    image = resize(image, width, height);
  }
  return spec.color_order === "bgr" ? swapped(image) : image;
}

/** Returns the rectangle of an image, which must lie inside. */
export function cut(image, left, top, width, height) {
  const { channels } = image;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * image.width + left) * channels;
    data.set(image.data.subarray(start, start + width * channels), y * width * channels);
  }
  return { width, height, channels, data };
}

/** Returns the gray image of RGB by ITU-R 601 luma, in Pillow's integers. */
export function toGray(image) {
  if (image.channels === 1) return image;
  const data = new Uint8Array(image.width * image.height);
  for (let i = 0; i < data.length; i++) {
    const [r, g, b] = [image.data[3 * i], image.data[3 * i + 1], image.data[3 * i + 2]];
    data[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  }
  return { ...image, channels: 1, data };
}

function toColor(image) {
  if (image.channels === 3) return image;
  const data = Uint8Array.from({ length: 3 * image.data.length }, (_, i) => image.data[(i / 3) | 0]);
  return { ...image, channels: 3, data };
}

/** Returns an RGB image as BGR. */
function swapped(image) {
  return { ...image, data: image.data.map((_, i) => image.data[i - (i % 3) + 2 - (i % 3)]) };
}

/** Resizes with Pillow's BILINEAR filter: first the rows, then the columns, each rounded to 8 bits. */
function resize(image, width, height) {
  const wide = image.width === width ? image : pass(image, width, image.height, true);
  return wide.height === height ? wide : pass(wide, width, height, false);
}

function pass(image, width, height, horizontal) {
  const { channels } = image;
  const [from, to] = horizontal ? [image.width, width] : [image.height, height];
  const step = horizontal ? channels : image.width * channels; // from one pixel of a sum to the next
  const data = new Uint8Array(width * height * channels);
  const rows = weights(from, to);
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, values } = rows[horizontal ? x : y];
      const start = horizontal ? (y * image.width + first) * channels : (first * image.width + x) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (PRECISION - 1);
        for (let i = 0; i < values.length; i++) sum += image.data[start + i * step + c] * values[i];
        data[out++] = Math.max(0, Math.min(255, sum >> PRECISION));
      }
    }
  }
  return { width, height, channels, data };
}

/** Returns, for each pixel of the result, the first pixel of its sum and the integer weights. */
function weights(from, to) {
  const scale = from / to;
  const support = Math.max(1, scale); // of the triangle, in pixels of the image
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(from, Math.trunc(center + support + 0.5));
    const values = [];
    for (let x = first; x < last; x++) values.push(Math.max(0, 1 - Math.abs((x - center + 0.5) / support)));
    const total = values.reduce((a, b) => a + b, 0);
    return { first, values: Int32Array.from(values, (v) => Math.trunc(0.5 + (v / total) * (1 << PRECISION))) };
  });
}

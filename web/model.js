// Classifies faces with the exported model: the counterpart of ferjax/runtime/model.py.

import { openEngine } from "./engine.js";

/** The classifier. */
export class Model {
  /**
   * @param {Object} spec the spec of the file.
   * @param {Function} run a result of `openEngine`.
   */
  constructor(spec, run) {
    this.spec = spec;
    this.run = run;
    const channels = spec.mean.length;
    this.shape = [1, ...spec.input_size, channels];
    // A pixel has 256 values: a table holds their normalized values, in the arithmetic of float32.
    this.table = Array.from({ length: channels }, (_, c) =>
      Float32Array.from({ length: 256 }, (_, p) =>
        Math.fround(Math.fround(Math.fround(p / 255) - Math.fround(spec.mean[c])) / Math.fround(spec.std[c])),
      ),
    );
  }

  /**
   * Returns the probabilities of a face, in the order of the spec's class names.
   *
   * @param {{data: Uint8Array}} face a result of `toInput`.
   * @returns {Promise<number[]>}
   */
  async probabilities(face) {
    const logits = await this.logits(face);
    const scaled = Array.from(logits, (value) => value / this.spec.temperature);
    const largest = Math.max(...scaled);
    const powers = scaled.map((value) => Math.exp(value - largest));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((value) => value / total);
  }

  /** Returns the logits of a face, as `probabilities`. */
  async logits(face) {
    const { table } = this;
    const values = Float32Array.from(face.data, (pixel, i) => table[i % table.length][pixel]);
    return Object.values(await this.run(values, this.shape))[0];
  }
}

/** Loads the model of the page. */
export async function loadModel() {
  const spec = await (await fetch("spec.json")).json();
  return new Model(spec, await openEngine("model.tflite"));
}

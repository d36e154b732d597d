// Runs TFLite files with LiteRT.js: the counterpart of ferjax/runtime/engine.py.

import { loadAndCompile, loadLiteRt, Tensor } from "./litert/index.js";

// A module that uses one 128-bit SIMD instruction; LiteRT.js needs them.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

/** Returns whether this browser can run the networks. */
export function supported() {
  return typeof WebAssembly === "object" && WebAssembly.validate(SIMD);
}

/** Loads LiteRT.js, once, before the first `openEngine`. */
export async function loadRuntime() {
  await loadLiteRt("./litert/");
}

/**
 * Loads a TFLite file.
 *
 * @param {string} path address of the file.
 * @returns {Promise<Function>} a function from (values: Float32Array, shape, signature) to a promise of a copy of each
 *   output, by name; without a signature, the first one of the file.
 */
export async function openEngine(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing: export the page again`);
  const model = await loadAndCompile(new Uint8Array(await answer.arrayBuffer()), { accelerator: "wasm" });
  return async (values, shape, signature = model.key) => {
    const input = new Tensor(values, shape);
    const name = model.signatures[signature].getInputDetails()[0].name;
    const outputs = await model.run(signature, { [name]: input });
    input.delete(); // memory of the runtime is freed by hand
    const copies = {};
    for (const [key, output] of Object.entries(outputs)) {
      copies[key] = output.toTypedArray().slice();
      output.delete();
    }
    return copies;
  };
}

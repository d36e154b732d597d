// Opens cameras, films and pictures: the counterpart of ferjax/runtime/sources.

/** An error with a sentence for the user. */
export class InputError extends Error {}

const OTHERWISE = "or open a picture or a film.";
const CAMERA = {
  NotAllowedError: `The camera was refused. Allow it for this page in the settings of the browser, ${OTHERWISE}`,
  NotFoundError: `No camera was found. Connect one, ${OTHERWISE}`,
  NotReadableError: `The camera is used by another program. Close that program, ${OTHERWISE}`,
};

/**
 * Starts the camera in a video element.
 *
 * @param {HTMLVideoElement} video the element.
 * @param {() => boolean} wanted asked after the user has allowed the camera: whether it is still wanted.
 * @throws {InputError} if there is no camera or it was refused.
 */
export async function openCamera(video, wanted) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new InputError(`A camera needs a page from https or from this computer. Open one, ${OTHERWISE}`);
  }
  const size = { facingMode: "user", width: { ideal: 640 }, height: { ideal: 480 } };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: size, audio: false });
  } catch (error) {
    const other = `The camera cannot be opened (${error.message}). Try again, ${OTHERWISE}`;
    throw new InputError(CAMERA[error.name] ?? other);
  }
  if (!wanted()) return release(stream);
  const [track] = stream.getVideoTracks();
  track.addEventListener("ended", () => video.dispatchEvent(new Event("ended"))); // the camera was unplugged
  video.srcObject = stream;
  await video.play();
}

function release(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/** Returns the picture in a file, or null if it is none. */
export async function openPicture(file) {
  return createImageBitmap(file).catch(() => null);
}

/** Starts the film in a file in a video element; throws InputError if the browser cannot play it. */
export async function openFilm(video, file) {
  video.src = URL.createObjectURL(file);
  await video.play().catch(() => null);
  if (!video.videoWidth) throw new InputError(`${file.name} is no picture and no film that this browser can read.`);
}

/** Stops the camera or the film of a video element. */
export function close(video) {
  release(video.srcObject);
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
}

/** Waits for the next frame of a video and returns its time in seconds, or null at the end. */
export function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.ended || !(video.src || video.srcObject?.active)) return resolve(null);
    const end = () => resolve(null);
    for (const event of ["ended", "emptied"]) video.addEventListener(event, end, { once: true });
    const shown = (now, metadata) => {
      for (const event of ["ended", "emptied"]) video.removeEventListener(event, end);
      resolve(video.srcObject ? now / 1000 : (metadata?.mediaTime ?? video.currentTime));
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(shown);
    else requestAnimationFrame(shown);
  });
}

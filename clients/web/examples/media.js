/** What one sends: camera and microphone, or a drawn picture and a soft tone. */

/**
 * @typedef {object} LocalMedia
 * @property {MediaStream} stream
 * @property {'camera' | 'drawn'} kind of the picture
 * @property {string | null} problem what is missing, in a sentence for people
 * @property {() => void} stop
 */

const WIDTH = 640;
const HEIGHT = 360;
const FRAMES_PER_SECOND = 15;

/**
 * @param {{name: string, fake: boolean}} who
 * @returns {Promise<LocalMedia>}
 */
export async function openMedia({ name, fake }) {
  if (fake) return drawn(name, null);
  if (!navigator.mediaDevices?.getUserMedia) {
    return drawn(name, 'No camera on this page: browsers give it to https and localhost only. A drawn picture is sent instead.');
  }
  const video = { width: { ideal: 1280 }, height: { ideal: 720 } };
  try {
    return captured(await navigator.mediaDevices.getUserMedia({ audio: true, video }), null);
  } catch (error) {
    return partial(name, error);
  }
}

/**
 * Whatever half of camera and microphone there is.
 * @param {string} name
 * @param {unknown} error
 */
async function partial(name, error) {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: true });
    return captured(stream, 'No microphone: the others see you but cannot hear you.');
  } catch {
    // Then there may be a microphone.
  }
  const media = drawn(name, describe(error));
  try {
    const { stream } = media;
    const heard = await navigator.mediaDevices.getUserMedia({ audio: true });
    for (const tone of stream.getAudioTracks()) stream.removeTrack(tone);
    for (const track of heard.getAudioTracks()) stream.addTrack(track);
    media.problem = 'No camera: a drawn picture is sent with your voice.';
  } catch {
    // Neither: the drawn picture and the tone it is.
  }
  return media;
}

/** @param {unknown} error */
function describe(error) {
  const name = error instanceof DOMException ? error.name : '';
  if (name === 'NotAllowedError') return 'Camera and microphone are blocked. Allow them in the address bar; until then a drawn picture and a tone are sent.';
  if (name === 'NotReadableError') return 'Another program uses the camera. A drawn picture and a tone are sent instead.';
  return 'No camera and no microphone found. A drawn picture and a tone are sent instead.';
}

/**
 * @param {MediaStream} stream
 * @param {string | null} problem
 * @returns {LocalMedia}
 */
function captured(stream, problem) {
  return { stream, kind: 'camera', problem, stop: () => stream.getTracks().forEach((track) => track.stop()) };
}

/**
 * @param {string} name
 * @param {string | null} problem
 * @returns {LocalMedia}
 */
function drawn(name, problem) {
  const canvas = document.createElement('canvas');
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const hue = [...name].reduce((sum, character) => sum + (character.codePointAt(0) ?? 0) * 37, 0) % 360;
  const draw = () => paint(canvas, name, hue, performance.now() / 1_000);
  draw();
  // Not by animation frames: those stop when the page is hidden, and the call should not.
  const timer = setInterval(draw, 1_000 / FRAMES_PER_SECOND);
  const stream = canvas.captureStream(FRAMES_PER_SECOND);
  const tone = openTone(hue);
  for (const track of tone.stream.getAudioTracks()) stream.addTrack(track);
  const stop = () => {
    clearInterval(timer);
    tone.stop();
    stream.getTracks().forEach((track) => track.stop());
  };
  return { stream, kind: 'drawn', problem, stop };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} name
 * @param {number} hue
 * @param {number} seconds
 */
function paint(canvas, name, hue, seconds) {
  const brush = canvas.getContext('2d');
  if (brush === null) return;
  const sky = brush.createLinearGradient(0, 0, WIDTH, HEIGHT);
  sky.addColorStop(0, `hsl(${hue} 42% 30%)`);
  sky.addColorStop(1, `hsl(${hue + 40} 48% 16%)`);
  brush.fillStyle = sky;
  brush.fillRect(0, 0, WIDTH, HEIGHT);
  for (let wave = 0; wave < 3; wave += 1) {
    brush.beginPath();
    brush.moveTo(0, HEIGHT);
    for (let x = 0; x <= WIDTH; x += 16) {
      const swing = Math.sin(x / (90 + wave * 30) + seconds * (0.7 + wave * 0.25) + wave);
      brush.lineTo(x, HEIGHT - 60 - wave * 26 + swing * 16);
    }
    brush.lineTo(WIDTH, HEIGHT);
    brush.fillStyle = `hsl(${hue + 20 + wave * 14} 50% 62% / 0.13)`;
    brush.fill();
  }
  brush.beginPath();
  brush.arc(WIDTH / 2, HEIGHT / 2 - 14, 64 + Math.sin(seconds * 2) * 3, 0, Math.PI * 2);
  brush.fillStyle = `hsl(${hue} 40% 88% / 0.16)`;
  brush.fill();
  brush.fillStyle = '#fff';
  brush.textAlign = 'center';
  brush.textBaseline = 'middle';
  brush.font = '600 56px system-ui, sans-serif';
  brush.fillText([...name.trim()][0]?.toUpperCase() ?? '?', WIDTH / 2, HEIGHT / 2 - 12);
}

/**
 * A tone so soft that it proves sound without being a nuisance.
 * @param {number} hue
 */
function openTone(hue) {
  const context = new AudioContext();
  const oscillator = new OscillatorNode(context, { frequency: 220 + hue / 2 });
  const gain = new GainNode(context, { gain: 0.015 });
  const out = context.createMediaStreamDestination();
  oscillator.connect(gain).connect(out);
  oscillator.start();
  return { stream: out.stream, stop: () => void context.close() };
}

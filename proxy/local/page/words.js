// Which word is being said? Marks it while the recording plays, and lets words be reached by click and by key.

import { announce, element } from "./dom.js";

/**
 * Write `answer` (verbose_json with words) into `place`, and follow `player`. Returns a function that ends that.
 *
 * The words are found in the text one after the other, so that what stands between them stays as it was written.
 */
export function followWords(answer, place, player) {
  const ending = new AbortController();
  const words = [];
  const parts = [];
  let at = 0;
  for (const word of answer.words) {
    const start = answer.text.indexOf(word.word, at);
    if (start < 0) continue;
    const made = element("span", { class: "word" }, word.word);
    parts.push(answer.text.slice(at, start), made);
    words.push({ ...word, made });
    at = start + word.word.length;
  }
  place.replaceChildren(element("p", {}, ...parts, answer.text.slice(at)));

  const marks = marker(words, player);
  const signal = ending.signal;
  for (const name of ["seeked", "timeupdate", "pause", "ended"]) player.addEventListener(name, marks.update, { signal });
  player.addEventListener("play", marks.run, { signal });
  place.addEventListener("click", ({ target }) => {
    const word = words.find(({ made }) => made === target);
    if (word) play(player, word);
  }, { signal });
  place.addEventListener("keydown", (event) => onKey(event, words, player, marks), { signal });
  return () => ending.abort();
}

function marker(words, player) {
  let marked = null;
  const update = () => {
    const now = player.currentTime === 0 && player.paused ? null : wordAt(words, player.currentTime);
    if (now === marked) return;
    marked?.made.removeAttribute("aria-current");
    now?.made.setAttribute("aria-current", "true");
    now?.made.scrollIntoView({ block: "nearest" });
    marked = now;
  };
  const run = () => {
    update();
    if (!player.paused && !player.ended) requestAnimationFrame(run);
  };
  return { update, run };
}

/** The last word that has begun by then, as long as its time runs and a little beyond; or null. */
function wordAt(words, time) {
  let [low, high] = [0, words.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle].start <= time + 0.001) low = middle + 1;
    else high = middle;
  }
  const word = words[low - 1];
  return word && time < word.end + 0.15 ? word : null;
}

function onKey(event, words, player, marks) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (step) stepTo(neighbour(words, player.currentTime, step, player.paused), player);
  else if (event.key === " ") player.paused ? player.play() : player.pause();
  else return;
  event.preventDefault();
  marks.update();
}

function neighbour(words, time, step, untouched) {
  const next = words.findIndex((word) => word.start > time + 0.001);
  const after = next < 0 ? words.length : next;
  if (step > 0) return time === 0 && untouched && !words[0]?.made.ariaCurrent ? words[0] : words[after];
  return words[Math.max(0, after - 2)];
}

function stepTo(word, player) {
  if (!word) return;
  player.currentTime = Math.max(word.start, 0.001);
  if (player.paused) announce(`${word.word}, at ${word.start.toFixed(1)} seconds`);
}

function play(player, word) {
  player.currentTime = word.start;
  player.play();
}

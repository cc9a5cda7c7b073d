// How do segments become the lines of a subtitle file? As `core/transcript/captions.py` does, byte for byte.

export function srt(segments) {
  return cues(segments)
    .map((cue, index) => `${index + 1}\n${time(cue.start, ",")} --> ${time(cue.end, ",")}\n${cue.text}\n\n`)
    .join("");
}

export function vtt(segments) {
  const lines = cues(segments).map((cue) => `${time(cue.start, ".")} --> ${time(cue.end, ".")}\n${escaped(cue.text)}\n\n`);
  return `WEBVTT\n\n${lines.join("")}`;
}

/** The segments that say something, in order and without overlap; times in milliseconds. */
function cues(segments) {
  const made = [];
  for (const segment of segments) {
    const text = line(segment.text);
    if (!text) continue;
    const last = made.at(-1);
    const start = Math.max(milliseconds(segment.start), last ? last.start + 1 : 0);
    if (last) last.end = Math.min(last.end, start);
    made.push({ start, end: Math.max(milliseconds(segment.end), start + 1), text });
  }
  return made;
}

// Line breaks, the blank line that would end a cue, all other control characters; and what looks like a line of times.
const line = (text) => text.replace(/[\x00-\x20\x7f-\x9f\u2028\u2029]+/g, " ").replace(/-{2,}>/g, "->").trim();

// WebVTT, section 4.2.2: `&` and `<` open a character reference and a tag.
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

const milliseconds = (seconds) => Math.max(0, Math.floor(seconds * 1000 + 0.5));

function time(total, mark) {
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const [hours, minutes, seconds] = [total / 3_600_000, (total / 60_000) % 60, (total / 1000) % 60];
  return `${two(hours)}:${two(minutes)}:${two(seconds)}${mark}${String(total % 1000).padStart(3, "0")}`;
}

// Makes tests/golden/times.json anew: each text with its meaning in PostHog's own parser, `new Date` and then luxon's
// `fromISO`, in milliseconds. TZ=UTC node tests/golden/times.mjs, where luxon can be imported.
import { readFileSync, writeFileSync } from "node:fs";
import { DateTime } from "luxon";

const file = new URL("times.json", import.meta.url);
const meaning = (text) => {
  const time = new Date(text).getTime();
  if (!Number.isNaN(time)) return time;
  const iso = DateTime.fromISO(text, { zone: "utc" });
  return iso.isValid ? iso.toMillis() : null;
};
const texts = Object.keys(JSON.parse(readFileSync(file, "utf8")));
writeFileSync(file, JSON.stringify(Object.fromEntries(texts.map((text) => [text, meaning(text)])), null, 0) + "\n");

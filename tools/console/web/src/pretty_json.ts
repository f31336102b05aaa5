/** Break a JSON text into lines. Its numbers, names and strings are not changed: parsing and writing them again would
 *  turn 9007199254740993 into 9007199254740992 and 1.50 into 1.5, and lose a repeated name. */

const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s"[\]{},:]+/gs;

export function pretty(raw: string): string {
  if (!isJson(raw)) return raw;
  let text = "";
  let depth = 0;
  let before = "";
  for (const [token] of raw.matchAll(TOKEN)) {
    const opens = before === "{" || before === "[";
    if (token === "}" || token === "]") {
      depth -= 1;
      text += opens ? token : line(depth) + token;
    } else if (token === "," || token === ":") {
      text += token;
    } else {
      if (opens || before === ",") text += line(depth);
      else if (before === ":") text += " ";
      text += token;
      if (token === "{" || token === "[") depth += 1;
    }
    before = token;
  }
  return text;
}

function line(depth: number): string {
  return "\n" + "  ".repeat(depth);
}

function isJson(raw: string): boolean {
  try {
    JSON.parse(raw);
    return true;
  } catch {
    return false;
  }
}

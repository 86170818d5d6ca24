/** A generation as code that draws the same picture. */
import { givenTo, settingsOf } from "./request.js";
import { pathOf } from "./ui.js";

/** What a request needs to be the same again. @param {any} row @returns {Record<string, any>} */
function fieldsOf(row) {
  const { output_format: format, ...fields } = settingsOf(row);
  if (row.num_images > 1) fields.num_images = row.num_images;
  if (format !== "png") fields.output_format = format;
  if (row.loras.length) fields.loras = row.loras.map((/** @type {any} */ one) => ({ lora: one.name, scale: one.scale }));
  if (row.strength !== null) fields.strength = row.strength;
  return fields;
}

/** Text as one word of a shell. @param {string} text */
const shell = (text) => `'${text.replace(/'/g, `'\\''`)}'`;

/** @param {any} value @returns {string} a literal of Python */
function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
  // JSON's strings are Python's, but for characters beyond 16 bits, which it leaves as they are.
  return JSON.stringify(value);
}

/** @param {Record<string, any>} fields @param {(value: any) => string} literal */
const lines = (fields, literal) => Object.entries(fields).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},`).join("\n");

/**
 * The pictures that it starts from or edits, by the field that takes them; `file` is what each is kept as.
 * @param {any} row
 */
function inputs(row) {
  const given = givenTo(row).map((url, n) => (row.kind === "edit" ? { name: "images", file: `image-${n}.png`, url } : { name: "image", file: "image.png", url }));
  const mask = row.urls.mask ? [{ name: "mask_image", file: "mask_image.png", url: row.urls.mask }] : [];
  return [...given, ...mask].map(({ name, file, url }) => ({ name, file, path: pathOf(url) }));
}

/** What a program adds to its request before it sends it. @param {any} row @param {(path: string) => string} load @param {(name: string, value: string) => string} set */
function loading(row, load, set) {
  const from = inputs(row);
  const edited = from.filter(({ name }) => name === "images").map(({ path }) => `    ${load(path)},\n`);
  if (edited.length) return set("images", `[\n${edited.join("")}]`);
  return from.map(({ name, path }) => set(name, load(path))).join("");
}

/** @param {any} row @param {string} origin */
function curl(row, origin) {
  const from = inputs(row);
  const door = from.length ? "img2img" : "txt2img";
  const gets = from.map(({ file, path }) => `curl --fail-with-body -H "Authorization: Bearer $IMAGEGEN_TOKEN" ${origin}${path} -o ${file}\n`).join("");
  const many = row.num_images > 1;
  const ask = many ? "-o pictures.json" : `-H 'Accept: image/*' -o picture.${row.output_format}`;
  const head = `${gets}curl --fail-with-body ${origin}/api/v1/generate/${door} ${ask} \\\n    -H "Authorization: Bearer $IMAGEGEN_TOKEN" \\\n`;
  if (!from.length) return `${head}    -H 'Content-Type: application/json' \\\n    -d ${shell(JSON.stringify(fieldsOf(row)))}\n`;
  const parts = Object.entries(fieldsOf(row)).map(([name, value]) => `--form-string ${shell(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`);
  return head + [...parts, ...from.map(({ name, file }) => `-F ${name}=@${file}`)].map((part) => `    ${part}`).join(" \\\n") + "\n";
}

/** @param {any} row @param {string} origin */
function pythonCode(row, origin) {
  const door = inputs(row).length ? "img2img" : "txt2img";
  const gets = loading(row, (path) => `base64.b64encode(call("${path}")).decode()`, (name, value) => `request["${name}"] = ${value}\n`);
  return `import base64, json, os
from urllib.request import Request, urlopen

SERVICE = "${origin}"
HEADERS = {"Authorization": "Bearer " + os.environ["IMAGEGEN_TOKEN"], "Content-Type": "application/json"}


def call(path, body=None):
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(SERVICE + path, data=data, headers=HEADERS)) as answer:
        return answer.read()


request = {
${lines(fieldsOf(row), python)}
}
${gets}for image in json.loads(call("/api/v1/generate/${door}", request))["images"]:
    with open(f"picture-{image['index']}.${row.output_format}", "wb") as file:
        file.write(base64.b64decode(image["b64_json"]))
`;
}

/** @param {any} row @param {string} origin */
function javascript(row, origin) {
  const door = inputs(row).length ? "img2img" : "txt2img";
  const gets = loading(row, (path) => `Buffer.from(await (await call("${path}")).arrayBuffer()).toString("base64")`, (name, value) => `request.${name} = ${value};\n`);
  return `import { writeFile } from "node:fs/promises";

const headers = { Authorization: \`Bearer \${process.env.IMAGEGEN_TOKEN}\`, "Content-Type": "application/json" };

async function call(path, options = {}) {
  const answer = await fetch("${origin}" + path, { headers, ...options });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

const request = {
${lines(fieldsOf(row), JSON.stringify)}
};
${gets}const answer = await call("/api/v1/generate/${door}", { method: "POST", body: JSON.stringify(request) });
for (const image of (await answer.json()).images) {
  await writeFile(\`picture-\${image.index}.${row.output_format}\`, Buffer.from(image.b64_json, "base64"));
}
`;
}

/** @param {any} row @param {string} origin */
function openai(row, origin) {
  const { prompt, model, width, height, num_images: n = 1, loras, scheduler, clip_skip: skip, output_format: format, ...more } = fieldsOf(row);
  const none = ["true_cfg_scale", "guidance_rescale", "acceleration", "padding_mask_crop", "output_quality"].filter((name) => name in more);
  const lost = [row.urls.mask && "mask", scheduler && "scheduler", skip && "clip_skip", ...none].filter(Boolean);
  if (lost.length) return `# OpenAI's API has no place for ${lost.join(" and ")}: take one of the others.\n`;
  const extra = loras ? { ...more, lora: loras.map((/** @type {any} */ one) => ({ name: one.lora, scale: one.scale })) } : more;
  const options = [
    `prompt=${python(prompt)}`, `model=${python(model)}`, `size="${width}x${height}"`, `n=${n}`,
    ...(format ? [`output_format="${format}"`] : []), `response_format="b64_json"`, `extra_body=${python(extra)}`,
  ];
  const from = inputs(row).map(({ file, path }) => `("${file}", picture("${path}"), "image/png")`);
  const load = `

def picture(path):
    return urlopen(Request("${origin}" + path, headers={"Authorization": "Bearer " + os.environ["IMAGEGEN_TOKEN"]})).read()


`;
  const call = from.length ? `client.images.edit(\n    image=${row.kind === "edit" ? `[${from.join(", ")}]` : from[0]},` : `client.images.generate(`;
  return `import base64, os
${from.length ? "from urllib.request import Request, urlopen\n\n" : ""}from openai import OpenAI
${from.length ? load : "\n"}client = OpenAI(base_url="${origin}/v1", api_key=os.environ["IMAGEGEN_TOKEN"])
answer = ${call}
${options.map((one) => `    ${one},`).join("\n")}
)
for index, image in enumerate(answer.data):
    with open(f"picture-{index}.${row.output_format}", "wb") as file:
        file.write(base64.b64decode(image.b64_json))
`;
}

/** @type {Record<string, {label: string, write: (row: any, origin: string) => string}>} */
export const SNIPPETS = {
  curl: { label: "curl", write: curl },
  python: { label: "Python", write: pythonCode },
  javascript: { label: "JavaScript", write: javascript },
  openai: { label: "OpenAI", write: openai },
};

/** @param {string} kind @param {any} row @param {string} origin */
export function snippet(kind, row, origin) {
  return SNIPPETS[kind].write(row, origin);
}

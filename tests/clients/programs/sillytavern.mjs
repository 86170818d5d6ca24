// SillyTavern itself: its server is started on a free port, and asked what its page asks.
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TOKEN, URL_, assert, run } from "./checks.mjs";

const probe = createServer().listen(0, "127.0.0.1");
await new Promise((resolve) => probe.once("listening", resolve));
const { port } = probe.address();
await new Promise((resolve) => probe.close(resolve));

const data = await mkdtemp(join(tmpdir(), "sillytavern-"));
const home = join(process.cwd(), "node_modules", "sillytavern");
const options = ["--port", port, "--dataRoot", data, "--configPath", join(data, "config.yaml"), "--disableCsrf", "--browserLaunchEnabled=false"];
const server = spawn(process.execPath, ["server.js", ...options.map(String)], { cwd: home, stdio: ["ignore", "inherit", "inherit"] });

async function post(path, body) {
  const answer = await fetch(`http://127.0.0.1:${port}/api/sd/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ url: URL_, ...body }),
  });
  assert(answer.ok, `${path}: ${answer.status}`);
  const text = await answer.text();
  return text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : text;
}

async function up() {
  for (let tries = 0; tries < 600; tries += 1) {
    const found = await fetch(`http://127.0.0.1:${port}/version`).catch(() => null);
    if (found?.ok || server.exitCode !== null) return;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function everything(auth) {
  await post("ping", { auth });
  const models = await post("models", { auth });
  assert(models.length > 0, "no models");
  assert((await post("samplers", { auth })).length > 5);
  assert((await post("schedulers", { auth })).length > 5);
  assert(Array.isArray(await post("upscalers", { auth })));
  assert(Array.isArray(await post("vaes", { auth })));
  await post("set-model", { auth, model: models[0].value });
  assert((await post("get-model", { auth })).length > 0);
  const picture = await post("generate", {
    auth, prompt: "a red circle", negative_prompt: "", sampler_name: "Euler a", scheduler: "karras", steps: 4, cfg_scale: 7,
    width: 256, height: 256, restore_faces: false, enable_hr: false, hr_upscaler: "Latent", hr_scale: 1, hr_additional_steps: 0,
    denoising_strength: 0.7, hr_second_pass_steps: 0, seed: 7, clip_skip: 1, override_settings: { CLIP_stop_at_last_layers: 1 },
    override_settings_restore_afterwards: true, save_images: true, send_images: true, do_not_save_grid: false, do_not_save_samples: false,
  });
  assert(picture.images[0].startsWith("iVBORw0KGgo"));
}

try {
  await up();
  await run({
    "connect, lists, set a model, draw, with the token": () => everything(`me:${TOKEN}`),
    "the same without credentials (A1111_OPEN_NETWORKS)": () => everything(""),
  });
} finally {
  server.kill();
  await rm(data, { recursive: true, force: true, maxRetries: 5 });
}

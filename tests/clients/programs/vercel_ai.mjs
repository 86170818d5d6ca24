// The Vercel AI SDK with its providers for OpenAI and for what is compatible with it.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import { readFile } from "node:fs/promises";
import { TOKEN, URL_, assert, isPng, run } from "./checks.mjs";

const openai = createOpenAI({ baseURL: `${URL_}/v1`, apiKey: TOKEN });
const compatible = createOpenAICompatible({ name: "imagegen", baseURL: `${URL_}/v1`, apiKey: TOKEN });
const small = { prompt: "a red circle", size: "256x256" };

await run({
  "generateImage, provider openai": async () => {
    for (const name of ["dall-e-3", "builtin"]) {
      const { image } = await generateImage({ ...small, model: openai.image(name) });
      assert(isPng(image.uint8Array), name);
    }
  },
  "several pictures": async () => {
    const { images } = await generateImage({ ...small, model: openai.image("gpt-image-1"), n: 2 });
    assert(images.length === 2);
  },
  "provider options": async () => {
    const providerOptions = { openai: { quality: "low", outputFormat: "png", background: "opaque" } };
    assert((await generateImage({ ...small, model: openai.image("gpt-image-1"), providerOptions })).images.length === 1);
  },
  "generateImage, provider openai-compatible": async () => {
    const { image } = await generateImage({ ...small, model: compatible.imageModel("builtin") });
    assert(isPng(image.uint8Array));
  },
  "edit, with a mask": async () => {
    const prompt = { text: "a star", images: [await readFile("in.png")], mask: await readFile("mask.png") };
    for (const model of [openai.image("gpt-image-1"), compatible.imageModel("builtin")]) {
      assert(isPng((await generateImage({ prompt, model })).image.uint8Array));
    }
  },
});

// `openai` for node: every call of its images, and its models.
import OpenAI from "openai";
import { TOKEN, URL_, assert, isPng, picture, run } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: TOKEN });
const small = { prompt: "a red circle", size: "256x256", quality: "low" };
const bytes = (image) => Buffer.from(image.b64_json, "base64");

await run({
  generate: async () => {
    const answer = await client.images.generate({ ...small, model: "gpt-image-1", n: 2 });
    assert(answer.data.length === 2 && answer.data.every((image) => isPng(bytes(image))));
    assert(answer.quality === "low" && answer.size === "256x256" && answer.usage.total_tokens === 0);
  },
  "pictures by url": async () => {
    const answer = await client.images.generate({ ...small, model: "dall-e-3" });
    assert(isPng(await (await fetch(answer.data[0].url)).arrayBuffer()));
  },
  stream: async () => {
    const kinds = [];
    const stream = await client.images.generate({ prompt: "a star", size: "256x256", model: "gpt-image-1", stream: true, partial_images: 2 });
    for await (const event of stream) kinds.push(event.type);
    assert(kinds.at(-1) === "image_generation.completed" && kinds.length === 3, kinds.join());
  },
  "edit with a mask": async () => {
    const request = { ...small, model: "gpt-image-1", image: await picture(), mask: await picture("mask.png") };
    assert(isPng(bytes((await client.images.edit(request)).data[0])));
  },
  "edit a list": async () => {
    const answer = await client.images.edit({ ...small, image: [await picture()] });
    assert(isPng(bytes(answer.data[0])));
  },
  variation: async () => {
    const answer = await client.images.createVariation({ image: await picture(), size: "256x256" });
    assert((await fetch(answer.data[0].url)).ok);
  },
  models: async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert(names.includes("builtin") && (await client.models.retrieve("dall-e-3")).id === "dall-e-3");
  },
  errors: async () => {
    try {
      await client.images.generate({ ...small, size: "17x17" });
    } catch (error) {
      assert(error instanceof OpenAI.BadRequestError && error.param === "size");
      return;
    }
    assert(false);
  },
});

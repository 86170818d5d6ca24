// `@huggingface/inference` at this service's address.
import { InferenceClient } from "@huggingface/inference";
import { TOKEN, URL_, assert, isPng, picture, run } from "./checks.mjs";

const client = new InferenceClient(TOKEN).endpoint(`${URL_}/hf/builtin`);
const parameters = { width: 256, height: 256, num_inference_steps: 4 };

await run({
  textToImage: async () => {
    const blob = await client.textToImage({ inputs: "a red circle", parameters }, { outputType: "blob" });
    assert(isPng(await blob.arrayBuffer()));
  },
  "textToImage as a data URL": async () => {
    const url = await client.textToImage({ inputs: "a red circle", parameters }, { outputType: "dataUrl" });
    assert(url.startsWith("data:image/"));
  },
  imageToImage: async () => {
    const blob = await client.imageToImage({ inputs: await picture(), parameters: { prompt: "a star", num_inference_steps: 4 } });
    assert(isPng(await blob.arrayBuffer()));
  },
  errors: async () => {
    try {
      await client.textToImage({ inputs: "a", parameters: { width: 17 } });
    } catch (error) {
      assert(String(error).includes("width") || String(error.httpResponse?.body?.error).includes("width"), String(error));
      return;
    }
    assert(false);
  },
});

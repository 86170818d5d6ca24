// LangChain's wrapper of OpenAI's images.
import { DallEAPIWrapper } from "@langchain/openai";
import { TOKEN, URL_, assert, isPng, run } from "./checks.mjs";

const wrapper = (more) =>
  new DallEAPIWrapper({ openAIApiKey: TOKEN, apiKey: TOKEN, baseUrl: `${URL_}/v1`, configuration: { baseURL: `${URL_}/v1` }, ...more });

await run({
  "DallEAPIWrapper by url": async () => {
    const url = await wrapper({ model: "dall-e-3" }).invoke("a red circle");
    assert(isPng(await (await fetch(url)).arrayBuffer()), url);
  },
  "DallEAPIWrapper as base64": async () => {
    const made = await wrapper({ model: "dall-e-3", responseFormat: "b64_json", dallEResponseFormat: "b64_json" }).invoke("a star");
    const text = typeof made === "string" ? made : JSON.stringify(made);
    assert(text.includes("iVBORw0KGgo"), text.slice(0, 100));
  },
});

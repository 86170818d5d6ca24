/** Several pictures in one file, packed by the browser. */
import { downloadZip } from "../../vendor/client-zip/client-zip.js";
import { fileName } from "../page/files.js";
import { pathOf } from "../page/ui.js";

/**
 * @param {import("../client/client.js").Client} client
 * @param {any[]} rows
 */
export async function saveZip(client, rows) {
  async function* files() {
    for (const row of rows) {
      for (const image of row.images) {
        const answer = await client.fetch(pathOf(image.url));
        yield { name: fileName(row, image), lastModified: new Date(row.created_at), input: answer };
      }
    }
  }
  const blob = await downloadZip(files()).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `imagegen-${new Date().toISOString().slice(0, 10)}.zip`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

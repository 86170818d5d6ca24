/** What is used of this library. */
interface ZipEntry {
  name: string;
  lastModified: Date;
  input: Response | Blob | string;
}
export function downloadZip(files: AsyncIterable<ZipEntry> | Iterable<ZipEntry>): Response;

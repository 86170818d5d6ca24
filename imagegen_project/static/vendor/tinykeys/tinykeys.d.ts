/** What is used of this library. */
export function tinykeys(target: Window | HTMLElement, keys: Record<string, (event: KeyboardEvent) => void>): () => void;

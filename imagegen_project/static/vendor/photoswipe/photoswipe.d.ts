/** What is used of this library. */
export default class PhotoSwipe {
  constructor(options: object);
  opener: { isOpen: boolean };
  element?: HTMLElement;
  init(): boolean;
  close(): void;
  on(event: string, act: () => void): void;
}

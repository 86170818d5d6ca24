/** What is used of this library. */
export default class PhotoSwipe {
  constructor(options: object);
  init(): boolean;
}

/**
 * The browser's client: makes generations, follows them to their end, and comes back when the connection breaks.
 *
 *     import { Client } from "/static/js/main.js";
 *     const client = new Client({ token }); // without a token: with the page's session
 *     for await (const event of client.generate({ prompt: "a red circle" })) {
 *       if (event.type === "succeeded") picture.src = URL.createObjectURL((await client.pictures(event))[0]);
 *     }
 *
 * Every event comes once and in order, however often the connection broke; the last one is `succeeded`, `failed` or
 * `canceled`. What the service refuses is thrown as a RefusedError and not tried again. A token never stands in an
 * address: sockets are opened with a single-use ticket, or by the session's cookie. Where no socket opens although the
 * service answers (a proxy that lets none through), events come as server-sent events, and where those are held back,
 * by asking.
 */
export { Client } from "./client/client.js";
export { ConnectionLostError, RefusedError } from "./client/errors.js";

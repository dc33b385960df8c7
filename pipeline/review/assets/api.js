// Requests to the server of this page. Its address, with the token, is that of the page itself.

export class RequestError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function answer(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", redirect: "error", ...options });
  } catch {
    throw new RequestError(0, "the server does not answer; is spineline review still running?");
  }
  if (!response.ok) {
    let text = `error ${response.status}`;
    try {
      text = (await response.json()).error || text;
    } catch { /* the status says enough */ }
    throw new RequestError(response.status, text);
  }
  return response;
}

const placeOf = (name) => `api/studies/${encodeURIComponent(name)}`;

export const setup = async () => (await answer("api/setup")).json();

export async function studies(query) {
  return (await answer(`api/studies?${new URLSearchParams(query)}`)).json();
}

export const study = async (name) => (await answer(placeOf(name))).json();

export async function save(name, value) {
  const options = {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(value),
  };
  return (await answer(`${placeOf(name)}/corrections`, options)).json();
}

/** A slice: what the server says of it, and its greys as 16-bit numbers. */
export async function slice(name, place) {
  const response = await answer(`${placeOf(name)}/slices/${place}`);
  const about = JSON.parse(response.headers.get("x-slice"));
  const bytes = new DataView(await response.arrayBuffer());
  const greys = new Uint16Array(bytes.byteLength / 2);
  for (let n = 0; n < greys.length; n += 1) greys[n] = bytes.getUint16(2 * n, true);
  return { ...about, greys };
}

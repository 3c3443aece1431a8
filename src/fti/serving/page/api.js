// The service's own HTTP API: JSON in, JSON out, every failure one error with words for people.

export class ApiError extends Error {
  /**
   * `status` is 0 when nobody answered; `fields` has the problem of each field that has one; `earliest` is set when the
   * store has moved past the moment that was asked about: the first that it can still be asked about.
   */
  constructor(status, message, { fields = {}, earliest = null } = {}) {
    super(message);
    this.status = status;
    this.fields = fields;
    this.earliest = earliest;
  }
}

/** The answer, as `{ body, requestId }`. Paths are relative: the page works below any prefix. */
export async function ask(path, json = null) {
  const asked = json === null
    ? { headers: { Accept: "application/json" } }
    : { method: "POST", body: json, headers: { Accept: "application/json", "Content-Type": "application/json" } };
  let response, body;
  try {
    response = await fetch(path, { ...asked, cache: "no-store" });
  } catch {
    throw new ApiError(0, "The service does not answer. It may be restarting, or the network is away.");
  }
  try {
    body = await response.json();
  } catch {
    throw new ApiError(response.status, `The service answered ${response.status}, and no JSON.`);
  }
  if (!response.ok) throw new ApiError(response.status, body.error ?? `The service answered ${response.status}.`, body);
  return { body, requestId: response.headers.get("x-request-id") };
}

/** As `ask`, but null where the service has no such thing or does not let this key see it. */
export async function askIfThere(path) {
  try {
    return (await ask(path)).body;
  } catch (error) {
    if ([401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}

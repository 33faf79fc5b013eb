/**
 * Client for the Handover signaling gateway.
 * @module
 */
export { Client, connect } from './client.js';
export { HandoverError } from './errors.js';
export { Room } from './room.js';
export { hasWebTransport } from './transport/webtransport.js';

/**
 * @typedef {import('./client.js').ClientEvents} ClientEvents
 * @typedef {import('./client.js').ConnectOptions} ConnectOptions
 * @typedef {import('./client.js').LogEntry} LogEntry
 * @typedef {import('./client.js').State} State
 * @typedef {import('./client.js').StateChange} StateChange
 * @typedef {import('./errors.js').ClientErrorCode} ClientErrorCode
 * @typedef {import('./errors.js').GatewayErrorCode} GatewayErrorCode
 * @typedef {import('./room.js').RoomEvents} RoomEvents
 * @typedef {import('./session/output.js').Receipt} Receipt
 * @typedef {import('./session/output.js').RoomEvent} RoomEvent
 * @typedef {import('./transport/transport.js').TransportKind} TransportKind
 * @typedef {import('./wire/message.js').Lane} Lane
 * @typedef {import('./wire/message.js').Limits} Limits
 * @typedef {import('./wire/message.js').Member} Member
 * @typedef {import('./wire/message.js').Quality} Quality
 */

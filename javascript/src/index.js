export { Conversation } from './conversation.js';
export { DogeError, OptionError, PackageError, RewindError, StateError } from './errors.js';
export { load } from './load.js';
export { Model } from './model.js';
export { State } from './state.js';
export { TextStream } from './streaming.js';

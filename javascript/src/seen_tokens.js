/** The different tokens of a stream and where each came first, for the repetition penalty. */

export class SeenTokens {
  /** @param {number} vocabSize */
  constructor(vocabSize) {
    this.first = new Float64Array(vocabSize).fill(Infinity); // positions; Infinity for a token that did not come
  }

  /** @param {ArrayLike<number>} tokenIds @param {number} position of the first */
  note(tokenIds, position) {
    for (let i = 0; i < tokenIds.length; i++) {
      this.first[tokenIds[i]] = Math.min(this.first[tokenIds[i]], position + i);
    }
  }

  /** The tokens that came before a position, in ascending order. @param {number} position */
  before(position) {
    const tokens = [];
    for (let id = 0; id < this.first.length; id++) if (this.first[id] < position) tokens.push(id);
    return tokens;
  }

  /** The same stream cut at a position, in memory of its own. @param {number} position */
  upTo(position) {
    const other = new SeenTokens(0);
    other.first = this.first.map((first) => (first < position ? first : Infinity));
    return other;
  }
}

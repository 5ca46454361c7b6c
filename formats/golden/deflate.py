"""A small DEFLATE coder (RFC 1951), so that the same files come out whatever zlib is installed."""

import heapq

LENGTHS = [(3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1), (19, 2), (23, 2), (27, 2),
           (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4), (115, 4), (131, 5), (163, 5), (195, 5), (227, 5), (258, 0)]
DISTANCES = [(1, 0), (2, 0), (3, 0), (4, 0)] + [(((2 + half) << bits) + 1, bits) for bits in range(1, 14) for half in (0, 1)]
ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
END = 256


class Bits:
    """Bits from the lowest of each byte up."""

    def __init__(self):
        self.value, self.count = 0, 0

    def put(self, value, count):
        self.value |= value << self.count
        self.count += count

    def code(self, code, length):
        """Huffman codes begin with their highest bit."""
        self.put(int(format(code, f"0{length}b")[::-1], 2), length)

    def bytes(self):
        return self.value.to_bytes((self.count + 7) // 8, "little")


def code_lengths(counts, longest):
    """A Huffman code for at least two symbols; counts are halved until no code is too long."""
    used = [symbol for symbol, count in enumerate(counts) if count]
    while True:
        heap = [(counts[symbol], symbol, (symbol,)) for symbol in used]
        heapq.heapify(heap)
        lengths = [0] * len(counts)
        while len(heap) > 1:
            (first, order, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left + right:
                lengths[symbol] += 1
            heapq.heappush(heap, (first + second, order, left + right))
        if max(lengths) <= longest:
            return lengths
        counts = [(count + 1) // 2 for count in counts]


def canonical(lengths):
    """RFC 1951, 3.2.2: for each symbol its code and length."""
    code, codes = 0, {}
    for length in range(1, max(lengths) + 1):
        for symbol, own in enumerate(lengths):
            if own == length:
                codes[symbol] = (code, length)
                code += 1
        code <<= 1
    return codes


def tokens(data, matching):
    """Literals, and (length, distance) where three bytes or more came before."""
    result, seen, at = [], {}, 0
    while at < len(data):
        before, length = seen.get(data[at:at + 3]) if matching else None, 0
        if before is not None and at - before <= 32768:
            while length < 258 and at + length < len(data) and data[before + length] == data[at + length]:
                length += 1
        if length < 3:
            result.append(data[at])
            length = 1
        else:
            result.append((length, at - before))
        for place in range(at, min(at + length, len(data) - 2)):
            seen[data[place:place + 3]] = place
        at += length
    return result


def entry(table, value):
    """The number of the table's row that `value` belongs to, the bits after it, and how many."""
    number = max(number for number, (start, _) in enumerate(table) if start <= value)
    return number, value - table[number][0], table[number][1]


class Code:
    """The codes of a block: dynamic ones made for some tokens, or the fixed ones."""

    def __init__(self, lists=None, longest=15):
        if lists is None:
            self.literals = canonical([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8)
            self.distances = canonical([5] * 30)
            self.header = lambda bits: None
            self.kind = 1
            return
        counts, distances = [0] * 286, [0] * 30
        counts[END] = len(lists)
        for token in (token for each in lists for token in each):
            if isinstance(token, tuple):
                counts[257 + entry(LENGTHS, token[0])[0]] += 1
                distances[entry(DISTANCES, token[1])[0]] += 1
            else:
                counts[token] += 1
        lengths = code_lengths(counts, longest)
        used = [number for number, count in enumerate(distances) if count]
        # One distance takes a bit, none an empty code.
        distance_lengths = code_lengths(distances, 15) if len(used) > 1 else [int(number in used) for number in range(30)]
        self.literals, self.distances = canonical(lengths), canonical(distance_lengths)
        self.kind = 2
        self.header = lambda bits: self.write_header(bits, lengths, distance_lengths)

    @staticmethod
    def write_header(bits, lengths, distance_lengths):
        def trimmed(values, least):
            while len(values) > least and not values[-1]:
                values = values[:-1]
            return values

        lengths, distance_lengths = trimmed(lengths, 257), trimmed(distance_lengths, 1)
        runs, sequence, at = [], lengths + distance_lengths, 0
        while at < len(sequence):
            run = 1
            while at + run < len(sequence) and sequence[at + run] == sequence[at]:
                run += 1
            if sequence[at] == 0 and run >= 3:
                run = min(run, 138)
                runs.append((17, run - 3, 3) if run <= 10 else (18, run - 11, 7))
            elif run >= 4:
                run = min(run, 7)
                runs += [(sequence[at], 0, 0), (16, run - 4, 2)]
            else:
                run = 1
                runs.append((sequence[at], 0, 0))
            at += run
        counts = [0] * 19
        for symbol, _, _ in runs:
            counts[symbol] += 1
        if sum(map(bool, counts)) < 2:
            counts[0 if counts[0] == 0 else 1] = 1
        code_code = code_lengths(counts, 7)
        shown = max(4, max(place for place, symbol in enumerate(ORDER) if code_code[symbol]) + 1)
        bits.put(len(lengths) - 257, 5)
        bits.put(len(distance_lengths) - 1, 5)
        bits.put(shown - 4, 4)
        for symbol in ORDER[:shown]:
            bits.put(code_code[symbol], 3)
        codes = canonical(code_code)
        for symbol, extra, width in runs:
            bits.code(*codes[symbol])
            bits.put(extra, width)

    def write(self, bits, each, final=True):
        bits.put(int(final), 1)
        bits.put(self.kind, 2)
        self.header(bits)
        for token in each:
            if isinstance(token, tuple):
                number, extra, width = entry(LENGTHS, token[0])
                bits.code(*self.literals[257 + number])
                bits.put(extra, width)
                number, extra, width = entry(DISTANCES, token[1])
                bits.code(*self.distances[number])
                bits.put(extra, width)
            else:
                bits.code(*self.literals[token])
        bits.code(*self.literals[END])


def streams(parts, matching=False, fixed=False, longest=15):
    """One stream for each part, all with the same code and so with the same beginning."""
    lists = [tokens(part, matching) for part in parts]
    code = Code() if fixed else Code(lists, longest)
    result = []
    for each in lists:
        bits = Bits()
        code.write(bits, each)
        result.append(bits.bytes())
    return result


def blocks(data):
    """One stream of three blocks: stored, fixed, dynamic with matches."""
    third = len(data) // 3
    bits = Bits()
    bits.put(0, 3)
    bits.put(0, -bits.count % 8)
    bits.put(third, 16)
    bits.put(third ^ 0xFFFF, 16)
    bits.put(int.from_bytes(data[:third], "little"), 8 * third)
    Code().write(bits, tokens(data[third:2 * third], False), final=False)
    last = tokens(data[2 * third:], True)
    Code([last]).write(bits, last)
    return bits.bytes()

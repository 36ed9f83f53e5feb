"""Prints the orders that tests/data/epoch_order_test.cpp expects: Philox4x32-10 and Fisher-Yates, in plain Python."""

MASK = 0xFFFFFFFF


def philox(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def epoch_order(count, seed, epoch):
    order = list(range(count))
    for left in range(count, 1, -1):
        words = philox((left, 0, epoch & MASK, epoch >> 32), seed ^ int.from_bytes(b"orders", "big"))
        pick = (words[1] << 32 | words[0]) * left >> 64
        order[left - 1], order[pick] = order[pick], order[left - 1]
    return order


if __name__ == "__main__":
    # The first known answer of the generator's authors (Random123, kat_vectors).
    assert philox((0, 0, 0, 0), 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for seed, epoch in [(0, 0), (0, 1), (42, 0), (2**63, 2**32 + 5)]:
        print(seed, epoch, epoch_order(10, seed, epoch))

"""Exact searches among all subsets of a given size, on a small distance matrix."""

import numpy as np
from numba import njit

_TIE = 1e-9  # relative difference up to which squared distances, or variances, count as equal


def smallest_diameter(squared: np.ndarray, size: int) -> np.ndarray:
    """Return the `size` vectors whose largest mutual distance is smallest.

    Vectors that are all within t of each other are a clique of the graph of pairs at most t apart.
    Those left out cover each pair that is farther apart. So t is bisected over the distances that
    occur, and each t is decided by a search for a vertex cover of n - size vertices. It takes at
    most about 1.47^(n - size) steps, however the vectors lie. Squared diameters that differ by a
    relative 1e-9 or less count as equal. Of such subsets the lexicographically smallest is taken.

    Args:
        squared: (n, n) squared distances, symmetric.
        size: 1 <= size <= n.

    Returns:
        (size,) indices, ascending.
    """
    n = len(squared)
    allowed = n - size
    candidates = np.unique(squared) * (1 + _TIE)
    everybody = _bits(np.ones(n, np.bool_))
    low, high = 0, len(candidates) - 1  # at the largest distance everybody is a clique
    while low < high:
        middle = (low + high) // 2
        if _coverable(_farther(squared, candidates[middle]), everybody, allowed):
            high = middle
        else:
            low = middle + 1
    return _first_clique(_farther(squared, candidates[low]), everybody, allowed)


@njit(cache=True)
def _bits(flags: np.ndarray) -> np.ndarray:
    """Return (n,) truth values as the bits of (words,) integers."""
    words = np.zeros((len(flags) + 63) // 64, np.uint64)
    for i in range(len(flags)):
        if flags[i]:
            words[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    return words


@njit(cache=True)
def _farther(squared: np.ndarray, limit: float) -> np.ndarray:
    """Return the vertices farther than the limit from each, (n, words), as bits."""
    n = len(squared)
    rows = np.empty((n, (n + 63) // 64), np.uint64)
    for i in range(n):
        rows[i] = _bits(squared[i] > limit)
    return rows


@njit(cache=True)
def _has(words: np.ndarray, i: int) -> bool:
    return (words[i >> 6] >> np.uint64(i & 63)) & np.uint64(1) != np.uint64(0)


@njit(cache=True)
def _remove(words: np.ndarray, i: int) -> None:
    words[i >> 6] &= ~(np.uint64(1) << np.uint64(i & 63))


@njit(cache=True)
def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Return the number of bits that both have."""
    count = 0
    for w in range(len(one)):
        x = one[w] & other[w]
        x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
        x = (x & np.uint64(0x3333333333333333)) + (
            (x >> np.uint64(2)) & np.uint64(0x3333333333333333)
        )
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        count += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return int(count)


@njit(cache=True)
def _coverable(edges: np.ndarray, alive: np.ndarray, k: int) -> bool:
    """Return whether k vertices alive, or fewer, touch each edge between vertices alive."""
    n = len(edges)
    alive = alive.copy()
    degree = np.zeros(n, np.int64)
    while True:
        total, top = 0, 0
        for v in range(n):
            degree[v] = _common(edges[v], alive) if _has(alive, v) else 0
            total += degree[v]
            if degree[v] > degree[top]:
                top = v
        if total == 0:
            return True
        if total > 2 * k * degree[top]:
            return False
        taken = -1
        if degree[top] > k:  # a cover has it or all its neighbours, which are too many
            taken = top
        else:
            taken = _dominating(edges, alive, degree)
            if taken < 0 and degree[top] == 2:  # only cycles are left: some best cover has it
                taken = top
        if taken < 0:
            break
        _remove(alive, taken)
        k -= 1
    if _clique_bound(edges, alive, degree) > k:
        return False
    rest = alive.copy()
    _remove(rest, top)
    if _coverable(edges, rest, k - 1):
        return True
    for w in range(len(rest)):
        rest[w] &= ~edges[top, w]
    return _coverable(edges, rest, k - degree[top])


@njit(cache=True)
def _dominating(edges: np.ndarray, alive: np.ndarray, degree: np.ndarray) -> int:
    """Return a vertex that is in some smallest cover, -1 if none is found.

    It is a vertex u next to a vertex v whose other neighbours are all next to u too. The only
    neighbour of a vertex is one.
    """
    n = len(edges)
    for v in range(n):
        if degree[v] == 0:
            continue
        for u in range(n):
            if degree[u] < degree[v] or not _has(edges[v], u):
                continue
            inside = True
            for w in range(edges.shape[1]):
                other = edges[v, w] & alive[w] & ~edges[u, w]
                if w == u >> 6:
                    other &= ~(np.uint64(1) << np.uint64(u & 63))
                if other != np.uint64(0):
                    inside = False
                    break
            if inside:
                return u
    return -1


@njit(cache=True)
def _clique_bound(edges: np.ndarray, alive: np.ndarray, degree: np.ndarray) -> int:
    """Return a number of vertices that each cover needs.

    Of a clique it needs all but one. The bound is their sum over disjoint cliques.
    """
    n = len(edges)
    open_to = np.empty((n, edges.shape[1]), np.uint64)  # what is next to all of a clique
    cliques = 0
    bound = 0
    for v in range(n):
        if degree[v] == 0:
            continue
        c = 0
        while c < cliques and not _has(open_to[c], v):
            c += 1
        if c < cliques:
            bound += 1
            for w in range(edges.shape[1]):
                open_to[c, w] &= edges[v, w]
        else:
            open_to[c] = edges[v]
            cliques += 1
    return bound


@njit(cache=True)
def _first_clique(edges: np.ndarray, alive: np.ndarray, k: int) -> np.ndarray:
    """Return the lexicographically smallest set of len(edges) - k vertices without an edge."""
    n = len(edges)
    alive = alive.copy()
    chosen = np.empty(n - k, np.int64)  # of which k shrinks below
    count = 0
    for v in range(n):
        if count == len(chosen):
            break
        if not _has(alive, v):
            continue
        rest = alive.copy()
        for w in range(edges.shape[1]):
            rest[w] &= ~edges[v, w]
        left = k - _common(edges[v], alive)
        if left >= 0 and _coverable(edges, rest, left):
            alive, k = rest, left
            chosen[count] = v
            count += 1
        else:
            _remove(alive, v)
            k -= 1
    return chosen


def smallest_variance(squared: np.ndarray, size: int, guess: np.ndarray) -> np.ndarray:
    """Return the `size` vectors whose largest variance in any direction is smallest.

    The search goes in lexicographic order. It abandons a beginning as soon as its scatter, which
    only grows with each further vector, is too large in some direction. The scatter is below t if
    t (I + 11') - H has a Cholesky factor, where H are the inner products of the differences to the
    first vector chosen. Another vector appends a row to the factor. Variances that differ by less
    than a relative 1e-9 count as equal; of such the lexicographically smallest subset is returned.

    Args:
        squared: (n, n) squared distances, symmetric, 0 on the diagonal.
        size: 1 <= size <= n.
        guess: (size,) indices of a good subset, ascending: the better the faster.

    Returns:
        (size,) indices, ascending.
    """
    best = largest_scatter(squared[np.ix_(guess, guess)])
    picked, found = np.zeros(size, np.int64), guess
    resume = False
    while best > 0 and _next_below(squared, best * (1 - _TIE), picked, resume):
        best, found, resume = largest_scatter(squared[np.ix_(picked, picked)]), picked.copy(), True
    first = np.zeros(size, np.int64)
    return first if _next_below(squared, best * (1 + _TIE) + 1e-300, first, False) else found


def largest_scatter(squared: np.ndarray) -> float:
    """Return the largest sum of squared deviations from the mean in any direction.

    Args:
        squared: (m, m) squared distances of the vectors.
    """
    toward = squared.mean(1)
    inner = (toward[:, None] + toward[None, :] - squared - toward.mean()) / 2
    return max(0.0, float(np.linalg.eigvalsh(inner)[-1]))


@njit(cache=True)
def _next_below(squared: np.ndarray, limit: float, picked: np.ndarray, resume: bool) -> bool:
    """Write into `picked` the first subset whose largest scatter is below the limit.

    First in lexicographic order; if we `resume`, of those behind the one that is in `picked`.
    Return False if there is none.
    """
    n, size = len(squared), len(picked)
    chosen = picked.copy()
    factor = np.zeros((size, size))
    depth = 0
    candidate = chosen[0] if resume else 0
    if resume and size == 1:
        candidate += 1
    while True:
        if candidate > n - size + depth:  # too few are left
            if depth == 0:
                return False
            depth -= 1
            candidate = chosen[depth] + 1
            resume = False
        elif _appended(squared, limit, chosen, factor, depth, candidate):
            chosen[depth] = candidate
            depth += 1
            if depth == size:
                picked[:] = chosen
                return True
            if resume:
                candidate = chosen[depth]
                if depth == size - 1:
                    candidate += 1
                    resume = False
            else:
                candidate += 1
        else:
            candidate += 1
            resume = False


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _appended(
    squared: np.ndarray,
    limit: float,
    chosen: np.ndarray,
    factor: np.ndarray,
    depth: int,
    j: int,
) -> bool:
    """Write the row of vector j behind those of the first `depth` chosen.

    Return False if the matrix is not positive definite: the scatter is not below the limit.
    """
    if depth == 0:
        return True
    first = chosen[0]
    row = factor[depth]
    pivot = 2.0 * limit - squared[first, j]
    for k in range(1, depth):
        i = chosen[k]
        value = limit - 0.5 * (squared[first, j] + squared[first, i] - squared[i, j])
        other = factor[k]
        for q in range(1, k):
            value -= row[q] * other[q]
        value /= other[k]
        row[k] = value
        pivot -= value * value
        if not pivot > 0.0:
            return False
    if not pivot > 0.0:
        return False
    row[depth] = np.sqrt(pivot)
    return True

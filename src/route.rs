//! Where a packet leaves: routes and next hops, as an immutable snapshot ([`Fib`]) beside one word per next hop
//! ([`HopTable`]) that control rewrites in place when a neighbour's MAC changes.

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

func cosine(_ x: Double) -> Double { cos(x) }

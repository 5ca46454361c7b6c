#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

enum ProcessorCount {
    static var online: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
}

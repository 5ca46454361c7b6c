import FileIO
import Glibc

/// A file in the folder that FUZZ_FOLDER names, written over for each input.
struct InputFile {
    let path: String

    /// The folder of this process; what starts it makes and removes it.
    static let folder: String = {
        guard let name = unsafe getenv("FUZZ_FOLDER") else { fail("FUZZ_FOLDER must name a folder for the inputs") }
        return unsafe String(cString: name)
    }()

    init(_ name: String) { path = FileSystem.join(Self.folder, name) }

    func write(_ bytes: [UInt8]) {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        // Sound: as many bytes are written as the array has.
        let written = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
        require(descriptor >= 0 && written == bytes.count && close(descriptor) == 0, "\(path) cannot be written")
    }
}
